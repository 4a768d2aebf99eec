"""From a config to the parts of a run: data, task, models, method, optimisers."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from kdseg_jax import data, distillers, names, parallel, references, tasks
from kdseg_jax.data import streams, subset
from kdseg_jax.distillers import core
from kdseg_jax.distillers.core import fold_in_name
from kdseg_jax.errors import UserError
from kdseg_jax.inference.model import Model, abstract_variables, create_module, restore
from kdseg_jax.inference.views import Inference, create_inference
from kdseg_jax.training import config_check, freezing
from kdseg_jax.training.normalization_check import check_normalization
from kdseg_jax.training.optimizers import create_optimizer, create_schedule
from kdseg_jax.training.state import Optimizers, TrainState, create_state
from kdseg_jax.training.step import teacher_head

PyTree = Any

REST = 'rest'  # of the training split, in place of a folder


class Experiment(NamedTuple):
  """The parts of a run; nothing here changes while it runs.

  Attributes:
    config: the config.
    mesh: devices.
    train_source: training examples.
    evaluation_source: the split `config.eval.split`.
    task: the task.
    student: the model that is trained.
    teacher: the frozen teacher, or None.
    distiller: the method; without terms if `config.distill` has none.
    optimizers: `Optimizers`.
    schedule: learning rate as a function of the step; None where it is not known.
    inference: what models are shown of an image when they are evaluated.
    allow_class_names: whether a teacher, the weights that training starts from and the checkpoint
      that it goes on from may have other class names than the data, though as many.
    allow_imports: what the saved configs of the teacher and of the weights that training starts
      from may import, see `references.require_permission`: what this config names, and what the
      user permits.
  """

  config: ConfigDict
  mesh: Mesh
  train_source: Any
  evaluation_source: Any
  task: Any
  student: Any
  teacher: Model | None
  distiller: distillers.Distiller
  optimizers: Optimizers
  schedule: optax.Schedule | None
  inference: Inference
  allow_class_names: bool = False
  allow_imports: tuple[str, ...] = ()


def create_source(config: ConfigDict, split: str) -> Any:
  """The source of a split of `config.data`."""
  section = config.data.tfds if config.data.name.startswith('tfds:') else config.data.options
  return data.create(config.data.name, split, root=config.data.root or None,
                     size=tuple(config.data.size) or None, **section.to_dict())


def data_root(config: ConfigDict) -> str:
  """The path of `config.data.root`, or else of `$KDSEG_DATA`; '' without either."""
  root = config.data.root or os.environ.get('KDSEG_DATA', '')
  return root and os.path.realpath(root)


def create_evaluation_source(config: ConfigDict, split: str) -> Any:
  """The source of a split as models are evaluated on it: resized, padded, cut by `config.eval`."""
  views, source = create_inference(config), create_source(config, split)
  if views.is_fitted:
    return data.Fitted(source, views.canvas or None, views.sides or None,
                       by_orientation=views.by_orientation)
  return data.Centres(source, views.short_side, views.crop) if views.crop else source


def create_train_source(config: ConfigDict) -> Any:
  """The training split or a part of it, and the images of `config.data.unlabelled` after it.

  Raises:
    UserError: there are no such images, their share of a batch is out of range, or
      `config.data.by_orientation` of data that do not tell sizes.
  """
  everything = create_source(config, config.data.train_split)
  source = subset.spread(everything, config.data.train_limit)
  if config.data.by_orientation:
    streams.require_sizes(source)
  if not config.data.unlabelled:
    return source
  fields = create_task(config, len(everything.classes)).fields
  if config.data.unlabelled == REST:
    unlabelled = data.WithoutLabels(
        subset.rest(everything, config.data.train_limit), fields=fields)
  else:
    unlabelled = data.Unlabelled(
        config.data.unlabelled, size=tuple(config.data.size) or None, fields=fields)
    unlabelled.require_none_of({pair.label: f'the label of {pair.image}'
                                for pair in getattr(everything, 'pairs', ())})
  return data.Concatenated(source, unlabelled, share=config.data.unlabelled_share)


def create_task(config: ConfigDict, num_classes: int) -> tasks.Task:
  """The task of a config."""
  return tasks.of(config, num_classes)


def create_model(model_config: ConfigDict, num_classes: int) -> Any:
  """A model of a config's section `student`, BatchNorm over the mesh axis."""
  return create_module(model_config, num_classes, axis_name=parallel.AXIS)


def create_experiment(config: ConfigDict, *, teacher: Model | None = None,
                      allow_class_names: bool = False,
                      allow_imports: Sequence[str] = ()) -> Experiment:
  """Builds and checks all parts; what cannot work is refused here, before compiling.

  Args:
    config: of the run; what it names by `module:attribute` is imported.
    teacher: used instead of being loaded from `config.teacher.checkpoint`, if a teacher is needed;
      its module as of `create_model`, or each device normalises by its part of a batch where the
      method wants the batch's statistics.
    allow_class_names: see `Experiment`.
    allow_imports: modules that saved configs may name, beside those of this config.

  Raises:
    ValueError: a field of the config cannot be used; says which and what was expected.
    CheckpointError: the teacher's checkpoint is missing or does not fit.
  """
  mesh = parallel.create_mesh()
  config_check.check_config(config, mesh)
  inference = create_inference(config)
  train_source = create_train_source(config)
  evaluation_source = create_evaluation_source(config, config.eval.split)
  names.require_same_classes(
      evaluation_source.classes, train_source.classes, found_in=config.eval.split,
      expected_in=config.data.train_split, allow=allow_class_names)
  num_classes = len(train_source.classes)
  task = create_task(config, num_classes)
  _check_fields(task, train_source, config.data.name)
  _check_unlabelled(config, train_source, evaluation_source)
  distiller = distillers.create(config.distill.to_dict(), axis_name=parallel.AXIS)
  needs_teacher = bool(distiller.requires.teacher or distiller.requires.teacher_head)
  if needs_teacher and not config.teacher.checkpoint:
    raise UserError(
        f'config.distill ({distillers.label(config.distill)}) reads a teacher, and '
        'config.teacher.checkpoint is empty. Set it to the work directory of a trained teacher.')
  allow_imports = (*allow_imports, *references.named_in(config))
  if not needs_teacher:
    teacher = None
  elif teacher is None:
    teacher = load_teacher(
        config, train_source.classes, mesh, allow_class_names=allow_class_names,
        allow_imports=allow_imports)
  student = create_model(config.student, num_classes)
  if teacher is not None:
    _check_teacher_head(config.distill, student, teacher.module)
  optimizer = create_optimizer(config.optimizer, config.train.steps)
  freeze = tuple(config.train.freeze)
  if freeze:
    freezing.check_patterns(freeze, abstract_variables(student)['params'])
    student = freezing.FrozenModel(student, freeze)
    optimizer = freezing.freeze_optimizer(optimizer, freeze)
  experiment = Experiment(
      config=config, mesh=mesh, train_source=train_source,
      evaluation_source=evaluation_source, task=task, student=student, teacher=teacher,
      distiller=distiller._replace(critic=_with_own_schedule(distiller.critic, config)),
      optimizers=Optimizers(
          trained=optimizer,
          critic=create_optimizer(
              config.critic.optimizer, config.train.steps * config.critic.steps)),
      schedule=create_schedule(config.optimizer, config.train.steps), inference=inference,
      allow_class_names=allow_class_names, allow_imports=allow_imports)
  if config.train.batch_size == config.train.accumulate:  # one image at a time
    check_normalization(config, mesh, student, distiller, abstract_inputs(experiment))
  return experiment


def _check_teacher_head(distill, student, teacher):
  """Refuses terms that take the teacher's head for another than its model says that it has."""
  kind = getattr(teacher, 'head_kind', None)
  for term, options in distill.items():
    if kind is None or 'teacher_head' not in options:
      continue
    taken = options.teacher_head or getattr(student, 'head_kind', kind)
    if taken != kind:
      raise UserError(
          f'config.distill.{term}.teacher_head={options.teacher_head} takes the head of the '
          f'teacher for {taken}, and it is {kind}. Set --config.distill.{term}.teacher_head='
          f'{kind}.')


def _check_unlabelled(config, train_source, evaluation_source):
  """Refuses images without labels that the run is evaluated on, where both are of files."""
  unlabelled = getattr(train_source, 'second', None)
  if isinstance(unlabelled, data.Unlabelled):
    split = config.eval.split
    unlabelled.require_none_of({
        path: f'of the split {split}, on which the run is evaluated'
        for pair in getattr(evaluation_source, 'pairs', ()) for path in pair})


def _check_fields(task, source, name):
  """Refuses data of another task, by their first example."""
  if not len(source):
    return
  example = source[0]
  if not (isinstance(example, Mapping) and {'image', 'image_id'} <= set(example)):
    raise UserError(
        f'config.data.name={name}: an example is {type(example).__name__} '
        f'{sorted(example) if isinstance(example, Mapping) else ""}; expected a dict with image, '
        'image_id and what the task needs, see kdseg_jax.data.')
  for field, expected in task.fields.items():
    size = example['image'].shape[:2]
    if field not in example or not expected.admits(np.shape(example[field]), size):
      shape = expected.shape(size)
      found = f'{field} {np.shape(example[field])}' if field in example else f'no {field}'
      raise UserError(
          f'config.data.name={name}: an example has {found}, and the task {task.name} needs '
          f'{field} {shape}. Choose data of this task, or another config.task.name.')


def _with_own_schedule(critic, config):
  """A critic with its own number of steps has the config's optimiser scheduled over these."""
  if critic is None or critic.optimizer is not None:
    return critic
  if critic.parts is not None:
    return critic._replace(parts={name: _with_own_schedule(part, config)
                                  for name, part in critic.parts.items()})
  return critic if critic.steps is None else critic._replace(
      optimizer=create_optimizer(config.critic.optimizer, config.train.steps * critic.steps))


def load_teacher(config: ConfigDict, classes: Sequence[str], mesh: Mesh, *,
                 allow_class_names: bool = False, allow_imports: Sequence[str] = ()) -> Model:
  """The best checkpoint of a teacher's work directory; its architecture comes from there.

  Raises:
    CheckpointError: none there, or it does not fit.
    UserError: the teacher's classes are others than these, or its config names what is not
      permitted.
  """
  workdir = config.teacher.checkpoint
  check = lambda found: names.require_same_classes(
      found, classes, found_in=f'the teacher {workdir}', expected_in='the data',
      allow=allow_class_names)
  teacher = restore(workdir, mesh=mesh, axis_name=parallel.AXIS, allow_imports=allow_imports,
                    check=check)
  logging.info('Teacher: %s of %s, step %d.', teacher.config.student.name, workdir, teacher.step)
  return teacher


def abstract_inputs(experiment: Experiment) -> distillers.DistillInputs:
  """Shapes of what the distiller will receive, from the models and the crop.

  Raises:
    ValueError: the models or the task lack what the method reads.
  """
  config = experiment.config
  size = (config.train.batch_size, *config.augmentation.crop)
  batch = {'image': jax.ShapeDtypeStruct((*size, 3), jnp.uint8),
           'mask': jax.ShapeDtypeStruct(size, jnp.bool_),
           'index': jax.ShapeDtypeStruct(size[:1], jnp.int32)} | {
      name: jax.ShapeDtypeStruct((size[0], *field.shape(size[1:])), field.dtype)
      for name, field in experiment.task.fields.items()}

  student, requires = _abstract_taps(experiment.student, size), experiment.distiller.requires
  teacher = experiment.teacher.module if experiment.teacher else None
  head = None
  if requires.teacher_head and hasattr(teacher, 'head_from'):
    head = jax.eval_shape(
        functools.partial(teacher_head, teacher), abstract_variables(teacher))
  inputs = distillers.DistillInputs(
      student=student, teacher=_abstract_taps(teacher, size) if teacher else {}, batch=batch,
      targets=jax.eval_shape(lambda *given: experiment.task.loss(*given)[1][0], student, batch),
      rng=jax.random.key(0), step=jax.ShapeDtypeStruct((), jnp.int32), teacher_head=head)
  distillers.check_requires(requires, inputs)
  return inputs


@functools.lru_cache
def _abstract_taps(model, size):
  """Shapes of a model's taps for images of `(N, height, width)`."""
  variables = jax.eval_shape(lambda: model.init(
      {'params': jax.random.key(0)}, jnp.zeros((1, *size[1:], 3), jnp.uint8)))
  outputs = jax.eval_shape(
      model.apply, variables, jax.ShapeDtypeStruct((*size, 3), jnp.uint8))
  if not (isinstance(outputs, tuple) and len(outputs) == 2 and isinstance(outputs[1], Mapping)):
    raise UserError(f'{type(model).__name__} returns {type(outputs).__name__} when it is called; '
                    'expected (prediction, taps), taps a dict of named arrays.')
  return outputs[1]


def check_memory(experiment: Experiment, inputs: distillers.DistillInputs) -> None:
  """States how many bytes the method's memory (queues) will hold on every device.

  Raises:
    ValueError: more than `config.memory_limit_gb`; the message holds the arithmetic.
  """
  distiller = experiment.distiller
  memory = jax.eval_shape(
      lambda prepared: core.create_state(distiller, jax.random.key(0), inputs, prepared).memory,
      core.abstract_prepared(distiller, inputs))
  arrays = sorted(jax.tree_util.tree_leaves_with_path(memory),
                  key=lambda item: -item[1].size * item[1].dtype.itemsize)
  total = sum(x.size * x.dtype.itemsize for _, x in arrays)
  if not total:
    return
  rows = [
      f'  {jax.tree_util.keystr(path, simple=True, separator="/")}: '
      f'{" x ".join(map(str, (*x.shape, f"{x.dtype.itemsize} bytes")))} = '
      f'{x.size * x.dtype.itemsize:,} bytes' for path, x in arrays[:4]]
  label = distillers.label(experiment.config.distill)
  logging.info('Memory of %s: %s bytes on every device, most of it\n%s', label, f'{total:,}',
               '\n'.join(rows))
  limit = experiment.config.memory_limit_gb
  if total > limit * 1e9:
    raise UserError(
        f'config.distill ({label}) would keep {total / 1e9:.2f} GB in memory on every device, '
        f'more than config.memory_limit_gb={limit}. Make its queues smaller there, or raise the '
        'limit. The largest arrays:\n' + '\n'.join(rows))


def make_initial_state(experiment: Experiment) -> Callable[..., TrainState]:
  """`(key, what was prepared) -> state`, compiled: a fresh state on every device of the mesh."""
  inputs = abstract_inputs(experiment)
  check_memory(experiment, inputs)
  return compiled_once(state_creator(experiment, inputs), experiment.mesh)


def compiled_once(create: Callable, mesh: Mesh) -> Callable:
  """A function that makes a state, compiled, with its results on every device of the mesh."""
  sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  # It runs once. On CPU, optimising all its draws would take longer than compiling the step.
  level = 0 if jax.default_backend() == 'cpu' else 3
  return jax.jit(create, out_shardings=sharding, compiler_options=parallel.compiler_options(level))


def state_creator(experiment: Experiment, inputs: distillers.DistillInputs
                  ) -> Callable[..., TrainState]:
  """`make_initial_state`, not compiled. The inputs are shapes only, and so closed over."""
  return lambda rng, prepared=None: create_state(
      rng, experiment.student, experiment.distiller, experiment.optimizers, inputs,
      prepared=prepared, average=experiment.config.train.ema_decay > 0)


def initial_state(experiment: Experiment, prepared: PyTree = None) -> TrainState:
  """The fresh state of `config.seed`; `prepared` is what the method's preparation has left."""
  return make_initial_state(experiment)(run_key(experiment.config), prepared)


def run_key(config: ConfigDict) -> jax.Array:
  """The key from which all draws of a run are folded: of `config.seed` and `config.role`.

  A teacher that started from the kernels of its student, wherever their shapes agree, would teach
  the student of that seed something else than any other.
  """
  key = jax.random.key(config.seed)
  return key if config.role == 'student' else fold_in_name(key, config.role)
