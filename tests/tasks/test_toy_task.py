"""A task that nothing in the package knows trains, is evaluated, resumed, studied and reported."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import (
  default_config,
  evaluate,
  inference,
  parallel,
  predict,
  study,
  tasks,
)
from kdseg_jax.checkpoint import Checkpointer
from kdseg_jax.data import files, subset
from kdseg_jax.errors import UserError
from kdseg_jax.inference import evaluation
from kdseg_jax.inference.views import Inference
from kdseg_jax.recipes import common
from kdseg_jax.studies import side_by_side
from kdseg_jax.training import experiment, loop, programs, run, shapes
from kdseg_jax.training.preemption import StopSignal
from tests import runs, toy_task

TOY, HEAD = 'tests.toy_methods:of_value@0.5', 'tests.toy_methods:through_head'


@pytest.fixture(autouse=True)
def registered(monkeypatch):
  toy_task.register(monkeypatch)


def config_of(method='none', role='student', **fields):
  config = default_config.run(toy_task.NAME, method, role)
  config.data.name = toy_task.NAME
  config.augmentation.crop = (6, 6)
  config.train.update(steps=6, batch_size=8, compile_level=0)
  config.eval.update(every_steps=2, batch_size=8)
  config.checkpoint.every_steps = 3
  config.log.every_steps = 2
  config.optimizer.learning_rate = 0.1
  config.update_from_flattened_dict(fields)
  return config


def errors(workdir):
  return {row['step']: row['error'] for row in runs.rows(workdir) if row['phase'] == 'evaluation'}


def test_it_trains_evaluates_and_keeps_the_smallest_error(tmp_path, capsys):
  config = config_of()
  assert config.task.to_dict() == {'name': toy_task.NAME, 'weight': 1.0}
  metrics = loop.train(config, str(tmp_path))
  found = errors(tmp_path)
  assert list(found) == [2, 4, 6] and len(set(found.values())) == 3
  assert metrics['images'] == 11 and metrics['error'] == found[6] < metrics['worst']
  best = min(found, key=found.get)
  assert Checkpointer(str(tmp_path)).best_step() == best
  status, text = runs.run_here(capsys, evaluate.PROGRAM, f'--workdir={tmp_path}', '--best',
                               f'--json={tmp_path / "result.json"}')
  assert status in (0, None) and '\nval, 11 images, checkpoint ' in text
  assert f'error           {found[best]:.4f} times 1.0' in text
  assert json.loads((tmp_path / 'result.json').read_text())['error'] == pytest.approx(found[best])
  status, text = runs.run_here(capsys, evaluate.PROGRAM, f'--workdir={tmp_path}',
                               f'--confusion={tmp_path / "matrix.png"}')
  assert status == 2 and "Unknown figure of the task brightness: 'confusion'" in text


def test_a_run_that_was_stopped_goes_on_to_the_same_end(tmp_path, monkeypatch):
  loop.train(config_of(), str(tmp_path / 'whole'))
  with monkeypatch.context() as patch:
    patch.setattr(StopSignal, 'agree', lambda self, _, step: (
        self._stop() if step == 3 else None, self())[1])
    assert loop.train(config_of(), str(tmp_path / 'parts')) is None
  loop.train(config_of(), str(tmp_path / 'parts'))
  whole, parts = runs.saved(tmp_path / 'whole'), runs.saved(tmp_path / 'parts')
  assert whole.keys() == parts.keys()
  for name, value in whole.items():
    np.testing.assert_array_equal(parts[name], value, err_msg=name)
  assert errors(tmp_path / 'whole') == errors(tmp_path / 'parts')


@pytest.mark.parametrize('mode', parallel.MODES)
def test_what_stays_with_its_example_is_the_same_on_any_number_of_devices(mode):
  task, model = toy_task.Brightness(0), toy_task.Model()
  source = toy_task.Images('val')
  variables = model.init(jax.random.key(0), source[0]['image'][None])
  found = []
  for count in (1, 4):
    mesh = parallel.create_mesh(jax.devices()[:count])
    evaluator = evaluation.Evaluator(task, model, mesh, mode=mode, batch_size=4, pictures=2)
    shown = []
    found.append(evaluator.accumulate(variables, source, shown=shown).of_example)
    assert [example.fields['value'] for example in shown] == [source[i]['value'] for i in (1, 2)]
    assert all(example.image.shape == (6, 8, 3) for example in shown)
  assert sorted(found[0]) == list(range(11))
  assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_predict_writes_what_it_says_of_files_and_splits(teacher, tmp_path, capsys):
  source = toy_task.Images('val')
  model = inference.load(teacher)
  want = [model.predict(source[index]['image'])[0].value for index in range(3)]
  files.write_png(tmp_path / 'photo.png', source[1]['image'])
  for asked, known in (([tmp_path / 'photo.png'], -1),
                       (['--split=val', '--config.eval.limit=3', '--best'], source[1]['value'])):
    status, text = runs.run_here(
        capsys, predict.PROGRAM, f'--workdir={teacher}', f'--output={tmp_path / "out"}', *asked)
    lines = list(map(json.loads, (tmp_path / 'out/lines.txt').read_text().splitlines()))
    assert not status and f'{len(lines)} lines' in text
    line = lines[min(1, len(lines) - 1)]
    assert line['known'] == pytest.approx(known) and len(line) == 3
    if len(lines) == 3:
      assert [list(line.values())[2] for line in lines] == pytest.approx(want)
      assert [line['image'] for line in lines] == ['0.png', '1.png', '2.png']


def test_views_and_options_that_the_task_does_not_know_are_refused():
  with pytest.raises(UserError, match='of the whole image'):
    evaluation.Evaluator(toy_task.Brightness(0), toy_task.Model(), parallel.create_mesh(),
                         inference=Inference(flip=True))
  with pytest.raises(UserError, match="field of config.task for the task brightness: 'wight'"):
    tasks.create(toy_task.NAME, 0, wight=2.0)


def test_a_teacher_that_errs_too_much_is_refused(tmp_path):
  loop.train(config_of(role='teacher'), str(tmp_path / 'teacher'))
  config = config_of(TOY, **{
      'teacher.checkpoint': str(tmp_path / 'teacher'), 'teacher.min_metric': 1e-6})
  with pytest.raises(UserError, match='above config.teacher.min_metric=1e-06.*raise the limit'):
    loop.train(config, str(tmp_path / 'student'))
  config.teacher.min_metric = 0.0  # no limit
  loop.train(config, str(tmp_path / 'student'))
  rows = runs.rows(tmp_path / 'student')
  assert rows[-1]['teacher_error'] == min(errors(tmp_path / 'teacher').values())


@pytest.mark.slow
def test_a_study_of_it_is_tuned_trained_and_reported(tmp_path):
  config = common.study(
      config_of(), title='Brightness', description='Numbers.', seeds=(0, 1),
      students={'alone': {}, 'toy': {'method': TOY}}, teacher=config_of(role='teacher'),
      tune={'field': 'optimizer.learning_rate', 'grid': (1e-3, 1e-1, 10.0), 'extend': 2,
            'split': 'test', 'seeds': (7,), 'data_seed': 7})
  study.main(types.SimpleNamespace(
      config=config, workdir=str(tmp_path), allow_class_names=False,
      allow_imports=[]), [])
  report = json.loads((tmp_path / 'report.json').read_text())
  assert report['metric'] == 'error' and report['teacher']['images'] == 11
  for name, entry in report['students'].items():
    assert 'per_class_difference' not in entry
    last = [errors(tmp_path / 'students' / name / f'seed{seed}')[6] for seed in (0, 1)]
    assert entry['error_of_seeds'] == last and entry['best_of_many'] <= np.mean(last)
  for tuned in report['tuning'].values():
    tried = {float(value): result for value, result in tuned['results'].items()
             if result is not None}
    assert tried[tuned['chosen']] == min(tried.values())
  text = (tmp_path / 'report.md').read_text()
  assert '\nerror, after the last of 6 steps' in text and 'Differences by class' not in text
  alone = report['students']['alone']
  assert f'- alone: {", ".join(f"{error:.4f}" for error in alone["error_of_seeds"])}' in text


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('teacher')
  with pytest.MonkeyPatch.context() as patch:
    toy_task.register(patch)
    loop.train(config_of(role='teacher'), str(workdir))
  return str(workdir)


@pytest.mark.parametrize('split_teacher', [False, True])
def test_targets_and_the_head_of_the_teacher_reach_a_method(teacher, split_teacher):
  config = config_of(HEAD, **{'teacher.checkpoint': teacher, 'task.weight': 0.0,
                                'optimizer.momentum': 0.0, 'optimizer.weight_decay': 0.0,
                                'train.split_teacher': split_teacher})
  built = experiment.create_experiment(config)
  state = experiment.initial_state(built)
  before = jax.device_get(state.params)
  batch = next(run.training_batches(built, 'train', start=0))
  means = np.mean(batch['image'] / 255, axis=(1, 2, 3), where=batch['mask'][..., None])
  line = lambda params, scale: scale * means * params['head']['kernel'][0, 0] + (
      params['head']['bias'][0])
  theirs = jax.device_get(built.teacher.variables['params'])
  weight = np.abs(line(before, before['scale']) - batch['value'])
  slope = jax.grad(lambda scale: jnp.mean(
      weight * (line(theirs, scale) - line(theirs, theirs['scale'])) ** 2))(before['scale'])
  shapes.check_step(built)
  state, _ = programs.train_step_of(built)(state, batch)
  assert abs(slope) > 1e-4
  moved = float(state.params['scale'] - before['scale'])
  assert moved == pytest.approx(-0.1 * float(slope), rel=1e-3)
  np.testing.assert_array_equal(state.params['head']['kernel'], before['head']['kernel'])


@pytest.mark.slow
@pytest.mark.parametrize('vmap_seeds', [False, True])
def test_in_studies_too(teacher, vmap_seeds, tmp_path):
  config = config_of(HEAD, **{'teacher.checkpoint': teacher, 'seed': 1})
  together = loop.train(config, str(tmp_path / 'together'))
  config = common.study(config_of(**{'teacher.checkpoint': teacher, 'data.seed': 1}), title='',
                        description='', seeds=(1, 2), baseline='head',
                        students={'head': {'method': HEAD}})
  config.study.vmap_seeds = vmap_seeds
  assert side_by_side.train(config, str(tmp_path / 'study'))
  found = errors(tmp_path / 'study/students/head/seed1')
  assert found[6] == pytest.approx(together['error'], rel=1e-4)


def test_what_task_or_teacher_do_not_have_is_refused(teacher, monkeypatch):
  built = experiment.create_experiment(config_of(HEAD, **{'teacher.checkpoint': teacher}))
  shapes.check_step(built)
  requires = built.distiller.requires._replace(targets=('masks',))
  with pytest.raises(UserError, match=r"the task has no target 'masks'; it has \['difference'\]"):
    shapes.check_step(built._replace(distiller=built.distiller._replace(requires=requires)))
  monkeypatch.delattr(toy_task.Model, 'head_from')
  with pytest.raises(UserError, match='this teacher offers none'):
    experiment.abstract_inputs(built)


def test_a_task_from_elsewhere_has_all_that_a_task_has_and_its_presenter(monkeypatch):
  name = 'tests.toy_task:Brightness'
  with pytest.raises(UserError, match="Brightness: is type, without 'presenter'; expected a task"):
    tasks.find(name)
  monkeypatch.setattr(toy_task.Brightness, 'presenter', toy_task.BrightnessPresenter, raising=False)
  assert tasks.find(name) is toy_task.Brightness
  for missing in ('fields', 'main_metric', 'loss'):
    partial = type('Partial', (), {part: getattr(toy_task.Brightness, part) for part in (
        *tasks._PARTS, 'presenter') if part != missing})
    monkeypatch.setattr(toy_task, 'Partial', partial, raising=False)
    with pytest.raises(UserError, match=f'without {missing!r}; expected a task'):
      tasks.find('tests.toy_task:Partial')


def test_a_process_reads_its_own_part_of_an_evaluation_source(monkeypatch):
  class Counting(toy_task.Images):

    def __init__(self):
      super().__init__('val')
      self.reads = []

    def __getitem__(self, index):
      self.reads.append(index)
      return super().__getitem__(index)

  whole = Counting()
  sizes = [whole[i]['image'].shape[:2] for i in range(len(whole))]
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  found = []
  for process in (0, 1):
    source = Counting()
    monkeypatch.setattr(jax, 'process_index', lambda process=process: process)
    monkeypatch.setattr(evaluation.multihost_utils, 'process_allgather', lambda own: np.stack([
        np.resize(sizes[part::2] + [(0, 0)] * part, own.shape) for part in (0, 1)]))
    evaluator = evaluation.Evaluator(
        toy_task.Brightness(0), toy_task.Model(), parallel.create_mesh(jax.devices()[:2]),
        batch_size=4)
    for evaluated in (1, 2):
      source.reads.clear()
      batches = list(evaluator._batches(source))
      # The first time also for the sizes of a half.
      assert len(source.reads) == (6 - process) * (2 if evaluated == 1 else 1)
    assert len(batches) == 3 and all(len(batch['index']) == 2 for batch in batches)
    found += [index for batch in batches for index in batch['index'] if index >= 0]
  assert sorted(found) == list(range(11))
  assert subset.first(whole, 3).size is None
