"""The studies of knowledge adaptation: their students can be built, the plot is of the report."""

import json

import jax
import numpy as np
import pytest

from experiments import adaptation_parts, adaptation_strides
from kdseg_jax import data, distillers
from kdseg_jax.data import files
from kdseg_jax.studies import tuning
from tests.data import archives
from tests.experiments import abstract

STUDIES = {'parts': adaptation_parts, 'strides': adaptation_strides}


@pytest.mark.slow
@pytest.mark.parametrize('study', STUDIES)
def test_every_student_can_learn_of_the_teacher(study):
  config = STUDIES[study].get_config('runlocal')
  teacher, of_students = abstract.taps(config.study.teacher.student, 11), {}
  assert config.study.baseline in config.study.students
  for name in config.study.order:
    own = config.study.students[name]
    student = config.student.copy_and_resolve_references()
    student.update(own.get('student', {}))
    model = student.to_json()
    if model not in of_students:
      of_students[model] = abstract.taps(student, 11)
    method = distillers.create(own.distill.to_dict())
    inputs = distillers.DistillInputs(
        of_students[model], teacher, batch={'mask': jax.ShapeDtypeStruct((2, 64, 96), bool)},
        rng=jax.random.key(0), step=0)
    distillers.check_requires(method.requires, inputs)
    prepared = None
    if method.prepare:
      prepared = jax.eval_shape(
          lambda m=method, i=inputs: m.prepare.finish(m.prepare.init(jax.random.key(0), i)))
    state = jax.eval_shape(
        lambda p, m=method, i=inputs: m.init(jax.random.key(0), i, prepared=p), prepared)
    assert jax.eval_shape(method.loss, state, inputs)[0].shape == (), name


def terms_of(config):
  return {name: {term: fields.weight for term, fields in student.distill.items() if fields.weight}
          for name, student in config.study.students.items()}


def test_parts_are_those_of_the_paper():
  config = adaptation_parts.get_config()
  both = {'feature_adaptation': 50.0, 'affinity_adaptation': 1.0}
  assert terms_of(config) == {
      'alone': {}, 'kd': {'kd': 1.0}, 'fitnets': {'fitnets': 10.0},
      'features': {'feature_adaptation': 50.0}, 'affinity': {'affinity_adaptation': 1.0},
      'both': both, 'features_5': {'feature_adaptation': 5.0},
      'both_5': both | {'feature_adaptation': 5.0}}
  students = config.study.students
  assert students.kd.distill.kd.temperature == 4 and students.kd.distill.kd.resize
  assert not students.affinity.distill.affinity_adaptation.autoencoder
  assert students.both.distill.affinity_adaptation.autoencoder


def test_temperatures_have_a_study_of_their_own():
  config = adaptation_parts.get_config('temperatures')
  assert terms_of(config) == {
      'alone': {}, 'kd_2': {'kd': 1.0}, 'kd_4': {'kd': 1.0}, 'kd_6': {'kd': 1.0}}
  assert [config.study.students[f'kd_{t}'].distill.kd.temperature for t in (2, 4, 6)] == [2, 4, 6]


@pytest.mark.parametrize('study', STUDIES)
def test_every_student_is_tuned_by_one_rule_on_a_split_of_its_own(study, tmp_path):
  archives.camvid(tmp_path)
  config = STUDIES[study].get_config('steps=300,teacher_steps=400,seeds=2,size=90')
  config.data.root = str(tmp_path)
  tuning.check(config)
  assert config.study.tune.field == 'optimizer.learning_rate'
  assert (config.study.tune.split, config.eval.split) == ('val', 'test')
  assert config.study.seeds == (0, 1) and config.study.teacher.eval.split == 'val'
  for run, steps in ((config, 300), (config.study.teacher, 400)):
    assert run.train.steps == steps
    assert run.data.size == (90, 120) and run.augmentation.crop == (90, 90)


def test_a_split_to_tune_on_is_held_out_of_training(tmp_path):
  archives.camvid(tmp_path / 'all', counts=[('val', 3)])
  for kind in ('', 'annot'):
    (tmp_path / 'all' / f'train{kind}').mkdir()
    for name in [f'a_{i}.png' for i in range(9)] + [f'b_{i}.png' for i in range(5)]:
      (tmp_path / 'all' / f'train{kind}' / name).write_bytes(b'')
  adaptation_parts.hold_out(str(tmp_path / 'all'), str(tmp_path / 'made'))
  names = lambda split: sorted(path.name for path in (tmp_path / 'made' / split).iterdir())
  assert names('val') == names('valannot') == ['a_8.png', 'b_4.png']
  assert names('train') == names('trainannot') == [
      *(f'a_{i}.png' for i in range(8)), *(f'b_{i}.png' for i in range(4))]
  source = data.create('camvid', 'test', root=tmp_path / 'made')
  assert len(source) == 3 and source[0]['label'].shape == source[0]['image'].shape[:2]


def test_the_plot_is_of_the_report(tmp_path, capsys):
  report = {'metric': 'mean_iou', 'students': {
      f'{name}_{stride}': {'mean_iou': 0.5 + (name == 'adapted') / 10, 'interval': None,
                           'inference': {'macs': 1e10 / stride}}
      for name in ('alone', 'adapted') for stride in (4, 8, 16, 32)}}
  lines = adaptation_strides.lines_of(report)
  assert [point.macs for point in lines['alone']] == [2.5e9, 1.25e9, 6.25e8, 3.125e8]
  assert {point.value for point in lines['adapted']} == {0.6}
  assert lines['alone'][2].label == 'stride 16'
  (tmp_path / 'report.json').write_text(json.dumps(report))
  adaptation_strides.main(str(tmp_path))
  assert f'{tmp_path}/tradeoff.png' in capsys.readouterr().out
  picture = files.decode_image((tmp_path / 'tradeoff.png').read_bytes(), 'picture')
  assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 3
