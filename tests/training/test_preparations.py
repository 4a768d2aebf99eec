"""What methods prepare: made once, shared by all that need the same, whole though stopped."""

import contextlib
import copy
import dataclasses
import fcntl
import json
import os
import threading
import types

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import quickstart
from kdseg_jax import parallel
from kdseg_jax.distillers import DistillerState
from kdseg_jax.training import experiment as experiments
from kdseg_jax.training import loop, preparations, shapes
from kdseg_jax.training.optimizers import create_schedule
from kdseg_jax.training.preemption import StopSignal
from kdseg_jax.training.run import Diverged
from kdseg_jax.training.state import TrainState
from tests import runs, toy_methods, toys

pytestmark = pytest.mark.usefixtures('toy_models', 'one_device')

STEPS = 5


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('teacher')
  loop.train(quickstart.get_config('role=teacher,runlocal'), str(workdir))
  return str(workdir)


def config_of(teacher, method='fitting', **fields):
  for name in ('fitting', 'alike'):
    method = method.replace(name, f'tests.toy_methods:{name}')
  config = quickstart.get_config(f'method={method},runlocal')
  config.teacher.checkpoint = teacher
  config.prepare.steps = STEPS
  config.log.every_steps = 1
  config.checkpoint.every_steps = 2
  config.update_from_flattened_dict(fields)
  return config


def prepare(config, workdir, stop_after=None):
  """What the preparation leaves, and whether it was told to stop, after some steps."""
  built = experiments.create_experiment(config)
  with StopSignal() as stop:
    if stop_after is not None:
      stop.agree = lambda reached, step: stop._set or setattr(
          stop, '_set', step == stop_after) or stop._set
    return jax.device_get(preparations.prepare(built, str(workdir), stop)), stop()


def folders(workdir):
  return sorted((workdir / 'prepared').iterdir())


def rows(folder):
  return [(row['phase'], row['step'], row.get('loss')) for row in runs.rows(folder)]


@pytest.fixture(scope='module')
def prepared(teacher, tmp_path_factory):
  """A finished preparation: its folder and what it left."""
  workdir = tmp_path_factory.mktemp('prepared')
  result, stopped = prepare(config_of(teacher), workdir)
  assert not stopped
  (folder,) = folders(workdir)
  return folder, result


def test_a_preparation_is_trained_and_its_result_is_kept_without_the_rest(prepared):
  folder, result = prepared
  assert list(result) == ['fitting'] and list(result['fitting']) == ['mean']
  assert [step for _, step, _ in rows(folder)] == [1, 2, 3, 4, 5]
  assert runs.rows(folder)[0]['learning_rate'] == pytest.approx(0.1)
  saved = runs.saved(folder)
  assert saved['model/params/mean'] == result['fitting']['mean'] != 0
  assert saved['training/distiller/memory/calls'] == STEPS  # what it carries along
  assert 'model/params/decoder' in saved


def test_what_is_finished_is_found_and_not_made_again(prepared, teacher, monkeypatch):
  monkeypatch.setattr(preparations, 'advance', lambda *_: pytest.fail('it was finished'))
  folder, result = prepared
  again, _ = prepare(config_of(teacher), folder.parents[1])
  assert again == result
  assert folders(folder.parents[1]) == [folder]


def test_the_rate_falls_over_the_steps_of_the_preparation(prepared, teacher):
  folder, _ = prepared
  schedule = create_schedule(config_of(teacher).prepare.optimizer, STEPS)
  found = [row['learning_rate'] for row in runs.rows(folder) if 'learning_rate' in row]
  np.testing.assert_allclose(found, [schedule(step) for step in range(STEPS)], rtol=1e-5)
  assert found[-1] < 0.7 * found[0]


@pytest.mark.parametrize('stop_after', [2, 3])
def test_a_preparation_that_was_stopped_ends_as_if_it_had_not_been(
    prepared, teacher, tmp_path, stop_after):
  folder, result = prepared
  _, stopped = prepare(config_of(teacher), tmp_path, stop_after)
  assert stopped and len(rows(folders(tmp_path)[0])) == stop_after
  again, stopped = prepare(config_of(teacher), tmp_path)
  assert again == result and not stopped
  assert rows(folders(tmp_path)[0]) == rows(folder)
  jax.tree.map(np.testing.assert_array_equal, runs.saved(folders(tmp_path)[0]), runs.saved(folder))


def test_a_run_that_is_stopped_in_its_preparation_begins_after_it_and_needs_it_no_more(
    teacher, tmp_path, monkeypatch):
  config = config_of(teacher)
  with monkeypatch.context() as patch:
    patch.setattr(StopSignal, 'agree', lambda self, reached, step: (
        setattr(self, '_set', step == 3), step == 3)[1])
    assert loop.train(config, str(tmp_path)) is None
  assert not list((tmp_path / 'checkpoints').iterdir())
  assert loop.train(config, str(tmp_path))
  assert len(rows(folders(tmp_path)[0])) == STEPS
  kept = runs.saved(folders(tmp_path)[0])['model/params/mean']
  assert runs.saved(tmp_path)['training/distiller/prepared/fitting/mean'] == kept != 0

  monkeypatch.setattr(preparations, 'prepare', lambda *_: pytest.fail('it has begun'))
  config.train.steps = 3
  loop.train(config, str(tmp_path))
  after = runs.saved(tmp_path)
  assert after['training/step'] == 3
  assert after['training/distiller/prepared/fitting/mean'] == kept


def test_what_is_prepared_joins_the_weights_that_the_run_starts_from(monkeypatch):
  monkeypatch.setattr(preparations, 'prepare', lambda *_: {'mean': 7})
  drawn = TrainState(0, 'drawn', 'drawn', 'optimiser', DistillerState(), 'key', average='drawn')
  of_init = {'params': 'of init', 'batch_stats': 'of init', 'average': 'of init'}
  method = types.SimpleNamespace(prepare='something')
  run = types.SimpleNamespace(
      experiment=types.SimpleNamespace(distiller=method), done=0, state=drawn._replace(**of_init))
  create = lambda prepared: drawn._replace(distiller=DistillerState(prepared=prepared))
  preparations.give(run, 'work', create, lambda: False)
  assert run.state == create({'mean': 7})._replace(**of_init)


def test_a_preparation_draws_from_another_key_than_the_run_and_its_steps_than_its_start(
    teacher, tmp_path, monkeypatch):
  class Drawn(Exception):
    """Ends the preparation before its first step."""

  def create(create, _):
    def draw(key):
      raise Drawn(key, create(key).rng, *started)
    return draw
  started, init = [], toys.prepared().prepare.init
  method = toys.prepared(tap='logits')
  monkeypatch.setattr(toy_methods, 'fitting', lambda **_: method._replace(
      prepare=method.prepare._replace(
          init=lambda rng, inputs: (started.append(rng), init(rng, inputs))[1])))
  monkeypatch.setattr(experiments, 'compiled_once', create)
  keys = []
  for data_seed in (0, 5):
    config = config_of(teacher, **{'data.seed': data_seed})
    built = experiments.create_experiment(config)
    started.clear()
    with pytest.raises(Drawn) as drawn:
      preparations.prepare(built, str(tmp_path), lambda: False)
    keys += [*drawn.value.args[:2], drawn.value.args[-1], jax.random.key(data_seed)]
  assert len({str(jax.random.key_data(key)) for key in keys}) == len(keys) == 8


def decisive(config):
  """key of each preparation of a config, by the name of its term."""
  built = experiments.create_experiment(config)
  inputs = experiments.abstract_inputs(built)
  teacher = preparations.fingerprint(built.teacher)
  return {name: preparations._decisive(built, part, inputs, teacher)
          for name, part in built.distiller.prepare.parts.items()}


def test_runs_that_read_the_same_data_prepare_the_same_whatever_their_seeds(
    prepared, teacher, tmp_path):
  config = config_of(teacher, seed=5)
  config.data.seed = 0  # of `prepared`
  result, _ = prepare(config, tmp_path)
  assert folders(tmp_path)[0].name == prepared[0].name and result == prepared[1]
  want, got = (runs.saved(folder) for folder in (prepared[0], folders(tmp_path)[0]))
  assert want.keys() == got.keys()
  for name, value in want.items():  # what is drawn too, as the decoder
    np.testing.assert_array_equal(got[name], value, err_msg=name)


def test_two_terms_that_need_the_same_share_it(teacher, tmp_path):
  result, _ = prepare(config_of(teacher, 'fitting+alike'), tmp_path)
  assert len(folders(tmp_path)) == 1 and result['fitting'] == result['alike']
  config = config_of(teacher, 'fitting+alike', **{'distill.alike.slope': 3.0})
  result, _ = prepare(config, tmp_path)
  assert len(folders(tmp_path)) == 2 and result['fitting'] != result['alike']


def test_the_key_holds_all_that_decides_and_nothing_else(teacher, monkeypatch, tmp_path):
  of = lambda **fields: decisive(config_of(teacher, **fields))['fitting']
  first = of()
  for fields in ({'distill.fitting.weight': 0.7}, {'distill.fitting.warmup_steps': 5},
                 {'optimizer.learning_rate': 3.0}, {'train.steps': 9}, {'student.width': 1.0},
                 {'seed': 4, 'data.seed': 0}, {'eval.limit': 3}, {'log.every_steps': 9},
                 {'checkpoint.every_steps': 9}, {'prepare.folder': 'x'}, {'parallel': 'pmap'},
                 {'method': 'fitting+kd'}):
    method = fields.pop('method', 'fitting')
    assert decisive(config_of(teacher, method, **fields))['fitting'] == first, fields
  for fields in ({'distill.fitting.slope': 2.0}, {'seed': 4}, {'data.seed': 4},
                 {'prepare.steps': 3}, {'prepare.optimizer.momentum': 0.5},
                 {'train.batch_size': 16}, {'augmentation.crop': (24, 24)},
                 {'augmentation.flip': 0.4}, {'data.train_limit': 40}, {'data.size': (40, 40)}):
    assert of(**fields) != first, fields
  monkeypatch.setenv('KDSEG_DATA', str(tmp_path))
  assert of() != first  # another folder of data


def test_the_key_tells_teachers_and_folders_of_data_apart(teacher, tmp_path, monkeypatch):
  built = experiments.create_experiment(config_of(teacher))
  part, inputs = built.distiller.prepare.parts['fitting'], experiments.abstract_inputs(built)

  def key(root, known='teacher'):
    config = built.config.copy_and_resolve_references()
    config.data.root = str(root)
    return preparations._decisive(built._replace(config=config), part, inputs, known)
  (tmp_path / 'a').mkdir()
  (tmp_path / 'link').symlink_to(tmp_path / 'a')
  monkeypatch.chdir(tmp_path)
  assert key('') != key('', 'another')
  assert key('a') == key('link') == key(tmp_path / 'a') != key('') != key('b') != key('a')
  monkeypatch.setenv('KDSEG_DATA', str(tmp_path / 'link'))
  assert key('') == key('a') != key('b')


def test_a_preparation_is_run_as_the_config_says(teacher):
  config = config_of(teacher, parallel='pmap', **{
      'train.batch_size': 16, 'train.compile_level': 2, 'log.every_steps': 3,
      'checkpoint.every_steps': 7, 'checkpoint.keep': 5, 'augmentation.flip': 0.4,
      'task.align_corners': False, 'teacher.min_metric': 0.1, 'data.train_limit': 40,
      'seed': 3, 'prepare.optimizer.momentum': 0.5})
  found = preparations._config(experiments.create_experiment(config))
  assert (found.parallel, found.seed, found.data.seed) == ('pmap', 3, 3)
  assert (found.train.batch_size, found.train.compile_level) == (16, 2)
  config.data.seed = 3
  for section in ('task', 'data', 'augmentation', 'teacher', 'prepare', 'log', 'checkpoint'):
    assert found[section].to_dict() == config[section].to_dict(), section


def test_the_teacher_is_known_by_its_weights_and_not_by_its_folder(teacher):
  built = experiments.create_experiment(config_of(teacher))
  model = built.teacher
  first = preparations.fingerprint(model)
  of = lambda **changes: preparations.fingerprint(dataclasses.replace(model, **changes))
  assert of(workdir='elsewhere', step=9) == first
  other = copy.deepcopy(jax.device_get(model.variables))
  other['params']['Conv_0']['kernel'][0, 0, 0, 0] += 1e-3
  assert of(variables=other) != first
  config = ConfigDict(model.config)
  config.student.dropout = 0.9
  assert of(config=config) != first


def test_an_optimiser_of_its_own_is_used(teacher, tmp_path):
  config = config_of(teacher, **{'distill.fitting.rate': 0.25, 'prepare.steps': 1})
  result, _ = prepare(config, tmp_path)
  (only,) = runs.rows(folders(tmp_path)[0])
  decoder = runs.saved(folders(tmp_path)[0])['model/params/decoder']
  # mse + decoder**2 at step 0; plain SGD at 0.25 halves the decoder.
  assert only['step'] == 1 and decoder != 0 and 'learning_rate' not in only
  again = config_of(teacher, **{'distill.fitting.rate': 0.25, 'prepare.steps': 1,
                                'prepare.optimizer.learning_rate': 9.0})
  assert prepare(again, tmp_path)[0] == result and len(folders(tmp_path)) == 1


@pytest.mark.parametrize('limit, steps', [(40, 5), (41, 6), (3, 1)])
def test_without_a_number_of_steps_it_is_one_epoch(teacher, limit, steps):
  config = config_of(teacher, **{'prepare.steps': 0, 'data.train_limit': limit})
  built = experiments.create_experiment(config)
  assert config.train.batch_size == 8 and preparations.number_of_steps(built) == steps
  assert preparations._config(built).prepare.steps == steps


def test_a_folder_of_its_own_is_shared_by_runs(prepared, teacher, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  for name, shared in (('a', str(tmp_path / 'shared')), ('b', 'shared')):
    prepare(config_of(teacher, **{'prepare.folder': shared}), tmp_path / name)
    assert not (tmp_path / name).exists()
  (folder,) = (tmp_path / 'shared').iterdir()
  assert folder.name == prepared[0].name
  assert json.loads((folder / preparations.FILE).read_text())['steps'] == STEPS


@contextlib.contextmanager
def held(folder):
  """Another program that works in a folder."""
  os.makedirs(folder, exist_ok=True)
  with open(folder / 'lock', 'w') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


def test_a_program_waits_for_another_that_prepares_the_same(
    prepared, teacher, tmp_path, monkeypatch):
  folder = tmp_path / 'prepared' / prepared[0].name
  monkeypatch.setattr(preparations, '_POLL_SECONDS', 0.01)
  waiting, done = threading.Event(), []
  monkeypatch.setattr(preparations.time, 'sleep', lambda seconds: waiting.set())
  thread = threading.Thread(
      target=lambda: done.append(prepare(config_of(teacher), tmp_path)))
  with held(folder):
    thread.start()
    assert waiting.wait(60) and not done
    assert not (folder / 'checkpoints').exists()
  thread.join(120)
  assert done == [(prepared[1], False)]


def test_others_wait_until_it_ends(teacher, tmp_path, monkeypatch):
  def run(experiment, preparation, inputs, path, stop):
    with pytest.raises(BlockingIOError), open(os.path.join(path, 'lock')) as file:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    raise Asked
  monkeypatch.setattr(preparations, '_run', run)
  with pytest.raises(Asked):
    prepare(config_of(teacher), tmp_path)
  with open(folders(tmp_path)[0] / 'lock') as file:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given up with the error


class Asked(Exception):
  pass


def test_who_waits_can_be_told_to_stop(prepared, teacher, tmp_path, monkeypatch):
  monkeypatch.setattr(StopSignal, '__call__', lambda self: self._set)
  monkeypatch.setattr(preparations.time, 'sleep', lambda seconds: signal[0]._stop())
  signal = []
  enter = StopSignal.__enter__
  monkeypatch.setattr(StopSignal, '__enter__', lambda self: (signal.append(self), enter(self))[1])
  with held(tmp_path / 'prepared' / prepared[0].name):
    _, stopped = prepare(config_of(teacher), tmp_path)
  assert stopped and not (folders(tmp_path)[0] / 'checkpoints').exists()


def test_a_preparation_that_diverges_names_its_own_fields(teacher, tmp_path):
  config = config_of(teacher, **{'prepare.optimizer.learning_rate': 1e38})
  with pytest.raises(Diverged, match='prepare step .: not finite.*config.prepare.optimizer'):
    prepare(config, tmp_path)


def test_what_cannot_be_shaped_is_refused_with_the_term(teacher, monkeypatch):
  method = toy_methods.fitting()

  def loss(state, inputs):
    raise ValueError('maps do not fit')
  config = config_of(teacher)
  monkeypatch.setattr(toy_methods, 'fitting', lambda *, slope=1.0, rate=None: method._replace(
      prepare=method.prepare._replace(loss=loss)))
  with pytest.raises(ValueError, match='config.distill.fitting: maps do not fit'):
    shapes.check_step(experiments.create_experiment(config))


@pytest.mark.slow
@pytest.mark.parametrize('mode', parallel.MODES)
def test_eight_devices_prepare_the_same(prepared, teacher, tmp_path, mode, monkeypatch):
  monkeypatch.setattr(parallel, 'create_mesh', lambda original=parallel.create_mesh: original(
      jax.devices()))
  result, _ = prepare(config_of(teacher, parallel=mode), tmp_path)
  np.testing.assert_allclose(
      result['fitting']['mean'], prepared[1]['fitting']['mean'], rtol=1e-5)
  assert folders(tmp_path)[0].name == prepared[0].name
