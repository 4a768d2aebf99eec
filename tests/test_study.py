"""The study program as a user starts it: report, interruption, wrong input."""

import json
import math
import signal

import flax.linen as nn
import numpy as np
import pytest

from experiments import scenes_core
from kdseg_jax import inference, study, tasks
from kdseg_jax.studies.plan import student_workdir
from tests import runs, toys

STEPS = 30
# A model of one layer in place of the recipe's: programs are what is tested here.
PRELUDE = runs.toy_models('Model') + runs.SHORT_TIMING
STUDY = ('study', '--config=experiments/scenes_core.py:runlocal', f'--config.train.steps={STEPS}',
         '--config.eval.every_steps=15', '--config.checkpoint.every_steps=4')


@pytest.fixture(scope='module')
def uninterrupted(cache, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('study')
  output = runs.run(*STUDY, f'--workdir={workdir}', cache=cache, prelude=PRELUDE)
  return workdir, output


@pytest.mark.slow
def test_a_study_trains_its_teacher_and_reports_paired_differences(uninterrupted):
  workdir, output = uninterrupted
  report = json.loads((workdir / 'report.json').read_text())
  assert report['seeds'] == [0, 1] and report['baseline'] == 'alone'
  assert set(report['students']) == set(scenes_core.STUDENTS)
  for name, entry in report['students'].items():
    rows = [[row for row in runs.rows(student_workdir(str(workdir), name, seed))
             if row['phase'] == 'evaluation'] for seed in (0, 1)]
    assert [row['step'] for row in rows[0]] == [15, STEPS]
    last = [of_seed[-1]['mean_iou'] for of_seed in rows]
    assert entry['mean_iou'] == pytest.approx(np.mean(last))
    assert entry['best_of_many'] >= entry['mean_iou']
    assert entry['training']['steps_per_second'] > 0 and entry['training']['peak_megabytes'] > 0
    assert entry['inference']['params'] > 0 and entry['inference']['images_per_second'] > 0
    assert set(entry['paired']) == {'difference', 'interval', 'p_value', 'seeds_needed'}
    low, high = entry['paired']['interval']
    assert low <= entry['paired']['difference'] <= high
  assert 0 <= report['teacher']['mean_iou'] <= 1
  text = (workdir / 'report.md').read_text()
  assert text in output and '| distilled_unlabelled' in text


def test_a_report_names_recipes_of_the_checkout_by_their_path_there():
  assert study._as_typed(f'--config={runs.ROOT}/experiments/a.py:steps=3') == (
      '--config=experiments/a.py:steps=3')
  for other in (
      '--config=experiments/a.py', f'--config={runs.ROOT}s/a.py', f'--workdir={runs.ROOT}'):
    assert study._as_typed(other) == other


@pytest.mark.slow
def test_a_killed_study_ends_bit_identical_to_an_uninterrupted_one(
    uninterrupted, cache, tmp_path):
  process = runs.start(*STUDY, f'--workdir={tmp_path}', cache=cache, prelude=PRELUDE)
  runs.wait_for_step(process, student_workdir(str(tmp_path), 'distilled', 0), 10)
  process.kill()
  process.communicate()
  assert process.returncode == -signal.SIGKILL
  assert not (tmp_path / 'report.json').exists()
  runs.run(*STUDY, f'--workdir={tmp_path}', cache=cache, prelude=PRELUDE)
  for name in scenes_core.STUDENTS:
    for seed in (0, 1):
      got, want = (runs.saved(student_workdir(str(workdir), name, seed))
                   for workdir in (tmp_path, uninterrupted[0]))
      for leaf in want:
        np.testing.assert_array_equal(got[leaf], want[leaf], err_msg=leaf)
  results = lambda workdir: {
      name: entry['mean_iou_of_seeds'] for name, entry in json.loads(
          (workdir / 'report.json').read_text())['students'].items()}
  assert results(tmp_path) == results(uninterrupted[0])


@pytest.mark.slow
def test_another_config_of_the_teacher_is_refused(uninterrupted, cache):
  output = runs.run(*STUDY, '--config.study.teacher.optimizer.learning_rate=0.5',
                    f'--workdir={uninterrupted[0]}', cache=cache, prelude=PRELUDE, status=2)
  assert 'config.optimizer.learning_rate is 0.5 now and was' in output


def test_costs_are_those_of_the_median_step():
  cost = {'peak_bytes': 3_000_000, 'extra_params': 4}
  assert study._training_cost([0.1, 9.0, 0.2], cost) == {
      'steps_per_second': 5.0, 'peak_megabytes': 3.0, 'extra_params': 4}
  assert set(study._training_cost([], {}).values()) == {None}


def test_a_study_trains_its_teacher_in_its_folder_unless_one_is_given(monkeypatch):
  trained = []
  monkeypatch.setattr(study.loop, 'train_teacher', lambda own, folder, **allowed: (
      trained.append((own.role, folder, allowed)) or len(trained) > 1))
  config, allowed = scenes_core.get_config('runlocal'), {'allow_class_names': True}
  assert not study.train_teacher(config, 'work', **allowed)  # told to stop
  assert trained == [('teacher', 'work/teacher', allowed)]
  assert config.teacher.checkpoint == 'work/teacher'
  config.teacher.checkpoint = 'given'
  assert study.train_teacher(config, 'work', **allowed)
  assert len(trained) == 1 and config.teacher.checkpoint == 'given'


def test_the_teacher_of_a_report_has_the_scores_and_costs_of_its_own_files(monkeypatch, tmp_path):
  config = scenes_core.get_config('runlocal')
  config.teacher.checkpoint = 'the teacher'
  monkeypatch.setattr(study, 'inference_cost', lambda config, folder, allow_imports: folder)
  assert study.teacher_entry(config, str(tmp_path)) is None
  (tmp_path / 'teacher.json').write_text('{"key": {}, "metrics": {"mean_iou": 0.5}}')
  without = study.teacher_entry(config, str(tmp_path))['training']
  assert set(without.values()) == {None}  # its passes took no time
  (tmp_path / 'teacher_cost.json').write_text(
      json.dumps({'step_seconds': 0.25, 'peak_bytes': 8_000_000}))
  assert study.teacher_entry(config, str(tmp_path)) == {
      'mean_iou': 0.5, 'inference': 'the teacher',
      'training': {'steps_per_second': 4.0, 'peak_megabytes': 8.0, 'extra_params': None}}


def test_every_model_has_an_inference_cost_of_its_own_and_equal_ones_share_it(
    monkeypatch, tmp_path):
  config = scenes_core.get_config('runlocal')
  config.study.update(baseline='alone')
  mine = {'mine': {'factory': 'mylab.losses:mine', 'weight': 1.0}}
  config.study.students = {
      'alone': {}, 'same': {'distill': mine}, 'wide': {'student': {'width': 0.5}}}
  measured, allowed = [], []
  monkeypatch.setattr(study, 'inference_cost', lambda config, folder, allow_imports: (
      allowed.append(allow_imports), measured.append(folder), config.student.width)[2])
  monkeypatch.setattr(study, 'read_rows', lambda folder: [])
  monkeypatch.setattr(study.study_report, 'build', lambda students, **_: students)
  found = study.make_report(config, str(tmp_path), allow_imports=('theirs',))
  width = config.student.width
  assert width != 0.5 and {name: one['inference'] for name, one in found.items()} == {
      'alone': width, 'same': width, 'wide': 0.5}
  seed = config.study.seeds[0]
  assert measured == [student_workdir(str(tmp_path), name, seed) for name in ('alone', 'wide')]
  assert allowed == [('theirs', 'mylab.losses:mine')] * 2  # a study permits what it names


def test_a_report_has_the_steps_of_all_seeds_and_what_its_config_says(monkeypatch, tmp_path):
  config = scenes_core.get_config('runlocal')
  config.train.steps, config.study.seeds = 6, (4, 2)
  config.study.students = {'alone': {}}
  monkeypatch.setattr(study, 'inference_cost', lambda *_: {'params': 9})
  for seed, seconds in ((4, (0.5, 0.25)), (2, (0.125, 0.75))):
    folder = tmp_path / 'students' / 'alone' / f'seed{seed}'
    folder.mkdir(parents=True)
    found = {'phase': 'evaluation', 'step': 6, 'mean_iou': 0.5, 'per_class_iou': [0.5] * 11}
    (folder / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in (
        {'phase': 'prepare', 'step': 3, 'step_seconds': 90.0},
        {'phase': 'train', 'step': 1}, *(
            {'phase': 'train', 'step': 3, 'step_seconds': value} for value in seconds), found)))
  (tmp_path / 'students/alone/cost.json').write_text('{"peak_bytes": null, "extra_params": 0}')
  (tmp_path / 'tuning.json').write_text('{"alone": {"chosen": 0.5}}')
  report = study.make_report(config, str(tmp_path))
  assert report['students']['alone']['training'] == {
      'steps_per_second': pytest.approx(1 / 0.375), 'peak_megabytes': None, 'extra_params': 0}
  assert report['students']['alone']['inference'] == {'params': 9}
  assert (report['steps'], report['split'], report['tuning'], report['teacher']) == (
      6, 'test', {}, None)
  assert report['description'] == config.study.description
  config.study.tune = scenes_core.TUNE
  assert study.make_report(config, str(tmp_path))['tuning'] == {'alone': {'chosen': 0.5}}


class OfPixels(nn.Module):
  """Two classes of every pixel by itself."""

  @nn.compact
  def __call__(self, image, train=False):
    return nn.Dense(2)(image), {}


@pytest.mark.parametrize('views, size', [
    ({}, (64, 64)), ({'short_side': 56, 'crop': (48, 40)}, (48, 40)),
    ({'canvas': (32, 96)}, (32, 96)), ({'sides': (24, 30)}, (24, 24)),
    ({'window': (16, 16), 'flip': True}, (64, 64))])
def test_the_cost_of_inference_is_that_of_one_image_of_an_evaluation(views, size, monkeypatch):
  config, loaded, splits, shapes = scenes_core.get_config('runlocal'), [], [], []
  config.eval.update(split='val', **views)
  monkeypatch.setattr(study.inference, 'load', lambda folder, **options: (
      loaded.append((folder, options)), toys.loaded(OfPixels()))[1])
  monkeypatch.setattr(study.experiments, 'create_source', lambda config, split, original=(
      study.experiments.create_source): (splits.append(split), original(config, split))[1])
  monkeypatch.setattr(study, 'throughput', lambda model, image: shapes.append(image.shape) or 3.0)
  assert study.inference_cost(config, 'work', ('mylab',)) == {
      'params': 8, 'macs': 6 * size[0] * size[1], 'images_per_second': 3.0}
  assert loaded == [('work', {'checkpoint': 'latest', 'views': inference.Inference(),
                              'allow_imports': ('mylab',)})]
  assert shapes == [(1, *size, 3)] and splits == ['val']


def test_what_a_report_may_import_is_what_the_user_permits_and_its_config_names(
    monkeypatch, tmp_path):
  config, loaded, built = scenes_core.get_config('runlocal'), [], {}
  config.teacher.checkpoint, config.study.seeds = 'the teacher', (3, 1)
  config.study.order = ('distilled', 'alone')
  config.study.students, config.distill = {'distilled': {}, 'alone': {}}, {}
  config.student.name = 'mylab.models:Tiny'
  monkeypatch.setattr(study, 'inference_cost', lambda config, folder, allow_imports=(): (
      loaded.append((folder, *allow_imports))))
  monkeypatch.setattr(study, 'read_rows', lambda folder: [])
  monkeypatch.setattr(study.study_report, 'build', lambda students, **given: built.update(given))
  (tmp_path / 'teacher.json').write_text('{"metrics": {"mean_iou": 0.5}}')
  study.make_report(config, str(tmp_path), allow_imports=('ours',))
  assert loaded == [(folder, 'ours', 'mylab.models:Tiny') for folder in (
      student_workdir(str(tmp_path), 'distilled', 3), 'the teacher')]
  assert (built['baseline'], built['seeds'], built['teacher']['mean_iou']) == (
      'alone', (3, 1), 0.5)
  assert built['metric'] is tasks.SegmentationTask.main_metric and len(built['classes']) == 11


STAGES = ('train_teacher', 'tune', 'train')


@pytest.mark.parametrize('stops, process', [(0, 0), (1, 0), (2, 0), (3, 0), (3, 1)])
def test_a_study_that_is_told_to_stop_begins_no_later_stage_and_the_first_process_alone_reports(
    stops, process, monkeypatch, capsys, tmp_path):
  monkeypatch.setattr('jax.process_index', lambda: process)
  begun = []

  def stage(name):
    return lambda config, workdir, **allowed: begun.append((name, workdir, allowed)) or (
        len(begun) != stops + 1)
  for place, name in ((study, 'train_teacher'), (study, 'tune'), (study.side_by_side, 'train')):
    monkeypatch.setattr(place, name, stage(name))
  checked = []
  monkeypatch.setattr(study.shapes, 'check_study', lambda config, students, allow_class_names: (
      checked.append((allow_class_names, {name: own.seed for name, own in students.items()}))))
  rows = [[{'step': 7, 'mean_iou': value, 'per_class_iou': [math.nan]}] for value in (0.5, 0.75)]
  monkeypatch.setattr(study, 'make_report', lambda config, workdir, allow_imports: (
      study.study_report.build(
          {'alone': {'evaluations': rows, 'training': None, 'inference': None}}, baseline='alone',
          metric=tasks.SegmentationTask.main_metric, classes=['a'], seeds=(5, 8), teacher=None,
          shared={'steps': 7, 'description': ','.join(allow_imports), 'nothing': math.nan})))
  workdir = tmp_path / 'work'
  workdir.mkdir()
  arguments = ['--config=experiments/scenes_core.py:runlocal', f'--workdir={workdir}',
               '--allow_imports=mylab', '--allow_class_names', '--config.study.seeds=(5, 8)']
  monkeypatch.chdir(runs.ROOT)
  monkeypatch.setattr(study.sys, 'argv', ['study', *arguments])
  status, output = runs.run_here(capsys, study.PROGRAM, *arguments)
  assert not status, output
  allowed = begun[0][2]
  assert allowed['allow_class_names'] and 'mylab' in allowed['allow_imports']
  assert begun == [(name, str(workdir), allowed) for name in STAGES[:stops + 1]]
  assert checked == [(True, dict.fromkeys(scenes_core.STUDENTS, 5))]
  stopped = f'Stopped; the same command goes on from what was saved. Work directory: {workdir}'
  assert (stopped in output) == (stops < 3)
  if stops < 3 or process:
    assert not list(workdir.iterdir()) and 'Report:' not in output
    return
  report = json.loads((workdir / 'report.json').read_text())
  assert report['students']['alone']['mean_iou_of_seeds'] == [0.5, 0.75]
  assert report['nothing'] is None  # JSON has no NaN
  text = (workdir / 'report.md').read_text()
  assert text.startswith('# Structured distillation on the built-in scenes\n')
  assert "`python -m kdseg_jax.study --config=experiments/scenes_core.py:runlocal " in text
  assert "'--config.study.seeds=(5, 8)'`" in text and '\nmylab' in text
  assert text in output and f'Report: {workdir}/report.md and report.json' in output


def test_a_tuning_that_cannot_work_is_refused_before_the_teacher_is_trained(
    monkeypatch, capsys, tmp_path):
  monkeypatch.chdir(runs.ROOT)
  monkeypatch.setattr(study.shapes, 'check_study', lambda *_, **__: None)
  monkeypatch.setattr(study, 'train_teacher', lambda *_, **__: pytest.fail('it was'))
  status, output = runs.run_here(
      capsys, study.PROGRAM, '--config=experiments/scenes_core.py',
      '--config.study.tune.extend=-1', f'--workdir={tmp_path}')
  assert status == 2 and 'config.study.tune.extend=-1 must be at least 0' in output


def test_what_a_study_does_not_have_is_neither_trained_nor_tuned(monkeypatch):
  config = scenes_core.get_config('runlocal')
  config.study.teacher, config.study.tune = {}, {}
  assert study.train_teacher(config, 'work') is study.tune(config, 'work') is True
  assert not config.teacher.checkpoint
  config.study.tune = scenes_core.TUNE
  given = []
  monkeypatch.setattr(study.tuning, 'tune', lambda *given_, **allowed: (
      given.append((given_[1:], allowed)), {} if len(given) > 1 else None)[1])
  for tuned in (False, True):  # told to stop, and with nothing that was open
    assert study.tune(config, 'work', allow_imports=('mylab',)) is tuned
  assert given == [(('work', tasks.SegmentationTask.main_metric), {
      'allow_imports': ('mylab',)})] * 2


@pytest.mark.parametrize('arguments,message', [
    (['--config=configs/quickstart.py'], '--config must be a study'),
    (['--config=experiments/scenes_core.py:runlocal', '--config.study.baseline=alne'],
     "Did you mean 'alone'"),
    (['--config=experiments/scenes_core.py:runlocal', '--config.study.teacher.eval.split=tset'],
     "Did you mean 'test'"),
])
def test_wrong_input_is_one_clear_error(
    arguments, message, capsys, monkeypatch, tmp_path):
  monkeypatch.chdir(runs.ROOT)
  status, output = runs.run_here(
      capsys, study.PROGRAM, *arguments, f'--workdir={tmp_path / "work"}')
  assert status == 2 and message in output.partition('ERROR: ')[2]
  assert not (tmp_path / 'work').exists()
