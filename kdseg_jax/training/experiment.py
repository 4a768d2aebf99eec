"""From a config to the parts of a run: data, task, models, method, optimisers."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from kdseg_jax import data, distillers, models, tasks
from kdseg_jax.training import parallel
from kdseg_jax.training.checkpoint import Checkpointer
from kdseg_jax.training.optimizers import create_optimizer, create_schedule
from kdseg_jax.training.state import Optimizers, TrainState, create_state

PyTree = Any


class Teacher(NamedTuple):
  """A frozen model with its variables, and where they are from."""

  model: Any
  variables: PyTree
  workdir: str
  step: int


class Experiment(NamedTuple):
  """The parts of a run; nothing here changes while it runs.

  Attributes:
    config: the config.
    mesh: devices.
    train_source: training examples.
    evaluation_source: the split `config.eval.split`.
    task: the task.
    student: the model that is trained.
    teacher: `Teacher`, or None.
    distiller: the method; without terms for 'none'.
    optimizers: `Optimizers`.
    schedule: learning rate of the student as a function of the step.
  """

  config: ConfigDict
  mesh: Mesh
  train_source: Any
  evaluation_source: Any
  task: Any
  student: Any
  teacher: Teacher | None
  distiller: distillers.Distiller
  optimizers: Optimizers
  schedule: optax.Schedule


def create_source(config: ConfigDict, split: str) -> Any:
  """The source of a split of `config.data`."""
  return data.create(config.data.name, split, root=config.data.root or None,
                     size=tuple(config.data.size) or None)


def create_task(config: ConfigDict, num_classes: int) -> tasks.SegmentationTask:
  """The task of a config."""
  return tasks.SegmentationTask(
      num_classes=num_classes, align_corners=config.align_corners,
      auxiliary_weight=config.auxiliary_weight, absent_as_zero=config.eval.absent_as_zero)


def create_model(model_config: ConfigDict, num_classes: int) -> Any:
  """A model of a config's section `student`, BatchNorm over the mesh axis."""
  return models.create(num_classes=num_classes, axis_name=parallel.AXIS, **model_config)


def create_experiment(config: ConfigDict) -> Experiment:
  """Builds and checks all parts; what cannot work is refused here, before compiling.

  Raises:
    ValueError: a field of the config cannot be used; says which and what was expected.
    CheckpointError: the teacher's checkpoint is missing or does not fit.
  """
  mesh = parallel.create_mesh()
  parallel.check_batch_size(config.train.batch_size, mesh, 'train.batch_size')
  train_source = create_source(config, config.data.train_split)
  num_classes = len(train_source.classes)
  distiller = distillers.create(config.distill.to_dict(), axis_name=parallel.AXIS)
  needs_teacher = bool(distiller.requires.teacher or distiller.requires.teacher_head)
  if needs_teacher and not config.teacher.checkpoint:
    raise ValueError(
        f'method={config.method} reads a teacher, and config.teacher.checkpoint is empty. Set it '
        'to the work directory of a trained teacher.')
  if distiller.prepare_loss is not None and config.prepare.steps < 1:
    raise ValueError(
        f'method={config.method} fits its own parameters to the teacher before distillation '
        f'begins, and config.prepare.steps={config.prepare.steps}. Set it to 1 or more.')
  teacher = load_teacher(config, num_classes, mesh) if needs_teacher else None
  return Experiment(
      config=config, mesh=mesh, train_source=train_source,
      evaluation_source=create_source(config, config.eval.split),
      task=create_task(config, num_classes),
      student=create_model(config.student, num_classes), teacher=teacher, distiller=distiller,
      optimizers=Optimizers(
          trained=create_optimizer(config.optimizer, config.train.steps),
          critic=create_optimizer(
              config.critic.optimizer, config.train.steps * config.critic.steps),
          prepared=create_optimizer(config.prepare.optimizer, max(config.prepare.steps, 1))),
      schedule=create_schedule(config.optimizer, config.train.steps))


def load_teacher(config: ConfigDict, num_classes: int, mesh: Mesh) -> Teacher:
  """The best checkpoint of a teacher's work directory; its architecture comes from there.

  Raises:
    CheckpointError: none there, or leaves that differ (another class count, say).
  """
  workdir = config.teacher.checkpoint
  teacher, meta = load_model(workdir, num_classes, mesh)
  logging.info('Teacher: %s of %s, step %d.', meta.config.student.name, workdir, teacher.step)
  return teacher


def load_model(workdir: str, num_classes: int | None, mesh: Mesh, *,
               best: bool = True) -> tuple[Teacher, ConfigDict]:
  """A trained model of a work directory, replicated over the mesh, and what was saved with it.

  Args:
    workdir: work directory of `train`.
    num_classes: number of classes it must have; None is that of the run.
    mesh: devices.
    best: the checkpoint with the best metric rather than the newest.

  Returns:
    The model with its variables, and the checkpoint's `meta`: `config`, `classes`, `palette`.

  Raises:
    CheckpointError: none there, or it does not fit.
  """
  checkpointer = Checkpointer(workdir, metric='', create=False)
  step = checkpointer.best_step() if best else checkpointer.latest_step()
  meta = ConfigDict(checkpointer.read_meta(step))
  model = create_model(meta.config.student, num_classes or len(meta.classes))
  like = jax.eval_shape(lambda: dict(model.init(
      {'params': jax.random.key(0)}, jnp.zeros((1, 64, 64, 3), jnp.uint8))))
  like = {'params': like['params'], 'batch_stats': like.get('batch_stats', {})}
  variables = checkpointer.restore_model(step, with_sharding(like, mesh))
  checkpointer.close()
  return Teacher(model, variables, os.path.abspath(workdir), step), meta


def with_sharding(tree: PyTree, mesh: Mesh) -> PyTree:
  """ShapeDtypeStructs of a tree that is to be the same on every device."""
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  return jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def abstract_inputs(experiment: Experiment) -> distillers.DistillInputs:
  """Shapes of what the distiller will receive, from the models and the crop.

  Raises:
    ValueError: the models or the task lack what the method reads.
  """
  config = experiment.config
  size = (config.train.batch_size, *config.augmentation.crop)
  batch = {'image': jax.ShapeDtypeStruct((*size, 3), jnp.uint8),
           'label': jax.ShapeDtypeStruct(size, jnp.uint8),
           'mask': jax.ShapeDtypeStruct(size, jnp.bool_),
           'index': jax.ShapeDtypeStruct(size[:1], jnp.int32)}

  def taps_of(model):
    variables = jax.eval_shape(lambda: model.init(
        {'params': jax.random.key(0)}, jnp.zeros((1, *size[1:], 3), jnp.uint8)))
    return jax.eval_shape(lambda v, image: model.apply(v, image)[1], variables, batch['image'])

  inputs = distillers.DistillInputs(
      student=taps_of(experiment.student),
      teacher=taps_of(experiment.teacher.model) if experiment.teacher else {},
      batch=batch, rng=jax.random.key(0), step=jax.ShapeDtypeStruct((), jnp.int32))
  distillers.check_requires(experiment.distiller.requires, inputs)
  return inputs


def check_memory(experiment: Experiment, inputs: distillers.DistillInputs) -> None:
  """States how many bytes the method's memory (queues) will hold on every device.

  Raises:
    ValueError: more than `config.memory_limit_gb`; the message holds the arithmetic.
  """
  init = lambda: experiment.distiller.init(jax.random.key(0), inputs).memory
  arrays = sorted(jax.tree_util.tree_leaves_with_path(jax.eval_shape(init)),
                  key=lambda item: -item[1].size * item[1].dtype.itemsize)
  total = sum(x.size * x.dtype.itemsize for _, x in arrays)
  if not total:
    return
  rows = [
      f'  {jax.tree_util.keystr(path, simple=True, separator="/")}: '
      f'{" x ".join(map(str, (*x.shape, f"{x.dtype.itemsize} bytes")))} = '
      f'{x.size * x.dtype.itemsize:,} bytes' for path, x in arrays[:4]]
  logging.info('Memory of method=%s: %s bytes on every device, most of it\n%s',
               experiment.config.method, f'{total:,}', '\n'.join(rows))
  limit = experiment.config.memory_limit_gb
  if total > limit * 1e9:
    raise ValueError(
        f'method={experiment.config.method} would keep {total / 1e9:.2f} GB in memory on every '
        f'device, more than config.memory_limit_gb={limit}. Make its queues smaller under '
        'config.distill, or raise the limit. The largest arrays:\n' + '\n'.join(rows))


def initial_state(experiment: Experiment) -> TrainState:
  """A fresh state on every device of the mesh, from `config.seed`."""
  inputs = abstract_inputs(experiment)
  check_memory(experiment, inputs)
  sharding = jax.sharding.NamedSharding(experiment.mesh, jax.sharding.PartitionSpec())
  # The inputs are shapes only, so they are closed over instead of being passed through jit.
  create = lambda: create_state(
      jax.random.key(experiment.config.seed), experiment.student, experiment.distiller,
      experiment.optimizers, inputs)
  return jax.jit(create, out_shardings=sharding)()
