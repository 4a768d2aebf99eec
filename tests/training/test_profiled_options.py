"""The parts of a step are timed as the config has the step run."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdseg_jax import default_config, distillers
from kdseg_jax.distillers import DistillerState
from kdseg_jax.training import profiling
from kdseg_jax.training.state import Optimizers, TrainState


def built(**fields):
  """What the parts read of an experiment."""
  config = default_config.segmentation()
  config.update_from_flattened_dict(fields)
  method = distillers.Distiller(requires=distillers.Requires(), init=None, loss=None, critic='its')
  return types.SimpleNamespace(config=config, mesh='mesh', student='student', distiller=method,
                               optimizers=Optimizers(optax.sgd(0.5), 'of critics'))


def state_of(average=()):
  return TrainState(
      step=jnp.int32(0), params={'w': jnp.float32(3)}, batch_stats={'mean': jnp.float32(4)},
      opt_state=Optimizers(optax.sgd(0.5).init({}), {}), distiller=DistillerState(params={}),
      rng=jax.random.key(0), average=dict(average))


def test_programs_are_compiled_and_mapped_as_those_of_a_run(monkeypatch):
  made = []
  monkeypatch.setattr(profiling.parallel, 'data_parallel', lambda *given, **options: made.append(
      (given, options)))
  profiling._program(built(parallel='pmap', **{'train.compile_level': 1}), 'step', sharded=True)
  assert made == [(('step', 'mesh'), {'mode': 'pmap', 'compile_level': 1, 'sharded': True})]


@pytest.mark.parametrize('parts', [1, 4])
def test_the_student_is_run_in_micro_batches(parts, monkeypatch):
  seen = []
  monkeypatch.setattr(profiling, 'apply_train', lambda *_, **options: seen.append(options))
  profiling._make_forward(built(**{'train.accumulate': parts}))(None, state_of(), {})
  assert seen == [{'micro_batches': parts}]


@pytest.mark.parametrize('steps', [1, 3])
def test_critics_take_their_steps_by_their_optimiser(steps, monkeypatch):
  seen = []
  monkeypatch.setattr(profiling, '_inputs', lambda *_: jnp.float32(0))
  monkeypatch.setattr(profiling, 'advance_critics', lambda *given: (seen.append(given), given)[1])
  profiling._make_critic(built(**{'critic.steps': steps}))(None, state_of(), {})
  [(critic, default, axis, *_)] = seen
  assert (critic, axis) == ('its', profiling.AXIS)
  assert default == distillers.Critic(None, 'of critics', steps)


@pytest.mark.parametrize('decay, average', [(0.0, {}), (0.75, {'params': 2.5, 'batch_stats': 4})])
def test_an_average_is_part_of_the_update_where_one_is_kept(decay, average):
  kept = {'params': {'w': jnp.float32(9)}, 'batch_stats': {'mean': jnp.float32(9)}}
  update = profiling._make_update(built(**{'train.ema_decay': decay}))
  gradients = {'student': {'w': jnp.float32(1)}, 'distiller': {}}
  _, state = update(None, (gradients, state_of(kept if decay else {})), None)
  assert float(state.params['w']) == 2.5  # 3 - 0.5 * 1
  assert {name: float(*tree.values()) for name, tree in state.average.items()} == pytest.approx(
      average)  # of the first update that itself


def test_a_teacher_of_random_weights_is_that_of_its_own_config(monkeypatch):
  seen = {}
  config, own = built().config, built(role='teacher').config
  config.augmentation.crop, own.augmentation.crop = (24, 16), (40, 48)
  config.student.name, own.student.name = 'espnet_c', 'deeplabv3_resnet50'

  class Module:

    def init(self, keys, image):
      seen.update(image=image.shape)
      return {'params': {'w': np.float32(1)}}
  monkeypatch.setattr(profiling.experiments, 'create_train_source', lambda config: (
      seen.update(source=config), types.SimpleNamespace(classes=('a', 'b')))[1])
  monkeypatch.setattr(profiling.experiments, 'create_model', lambda student, classes: (
      seen.update(model=(student.name, classes)), Module())[1])
  monkeypatch.setattr(profiling.experiments, 'compiled_once', lambda create, mesh: create)
  given, teacher = profiling.untrained_teacher(config, own)
  assert seen == {'image': (1, 40, 48, 3), 'source': own, 'model': ('deeplabv3_resnet50', 2)}
  assert teacher.config.student.name == 'deeplabv3_resnet50' and teacher.classes == ('a', 'b')
  assert given.teacher.checkpoint and not config.teacher.checkpoint
  assert given.student.name == 'espnet_c'
