"""A trained model: its network, variables and classes, and what it says of images."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import Mesh
from ml_collections import ConfigDict, FrozenConfigDict

from kdseg_jax import config_files, models, names, outside, parallel, paths, references, tasks
from kdseg_jax.checkpoint import Checkpointer, CheckpointError, saved_steps
from kdseg_jax.errors import UserError
from kdseg_jax.inference import images as images_lib
from kdseg_jax.inference.predictions import Prediction, predictor
from kdseg_jax.inference.views import WHOLE_IMAGE, Inference, create_inference

if TYPE_CHECKING:
  from kdseg_jax.interop.exported import Exported

PyTree = Any
_STATIC = ('module', 'classes', 'config', 'palette', 'views', 'workdir', 'step', 'train_step')


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=['variables'], meta_fields=_STATIC)
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model:
  """A trained model; a pytree of its variables, so that it may be an argument of jitted functions.

  `dataclasses.replace(model, variables=...)` is the same model with other variables.

  Attributes:
    module: the Flax module, `(image, mask, index, train) -> (prediction, taps)`; its BatchNorm is
      not synchronised over devices.
    variables: `{'params', 'batch_stats'}`.
    classes: their names, in the order of the labels.
    config: that it was trained with; frozen.
    palette: colours of the classes, `((r, g, b), ...)`; None where they have none.
    views: what `predict` shows it of an image.
    workdir: absolute path of where it was loaded from; '' if from nowhere.
    step: number of its checkpoint.
    train_step: training steps that it has behind it.
  """

  module: Any
  variables: PyTree
  classes: tuple[str, ...]
  config: ConfigDict
  palette: tuple[tuple[int, ...], ...] | None = None
  views: Inference = WHOLE_IMAGE
  workdir: str = ''
  step: int = 0
  train_step: int = 0

  def __post_init__(self):
    if not isinstance(self.config, FrozenConfigDict):  # which jit could not tell from another
      object.__setattr__(self, 'config', FrozenConfigDict(self.config))

  @property
  def task(self) -> Any:
    """What it does, a task of `kdseg_jax.tasks`."""
    return tasks.of(self.config, len(self.classes))

  def apply(self, images: jax.Array, *, mask: jax.Array | None = None
            ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`(logits, taps)` in evaluation mode; pure: for `jax.jit`, `grad`, `vmap`.

    Args:
      images: `(N, H, W, 3)` RGB in 0-255, uint8 or float; the model normalises them.
      mask: `(N, H, W)` bool, False = padding; None is all True.

    Returns:
      Float32 logits, of a segmenter `(N, h, w, C)` at the stride of its head, of a classifier
      `(N, C)`, of a detector the raw outputs of its levels; and the taps. `Segmenter`, `Classifier`
      and `Detector` describe them.
    """
    return self.module.apply(self.variables, images, mask=mask)

  def predict(self, images: Any, *, batch_size: int = 1, scores: bool = True) -> list[Prediction]:
    """What the model says of images, as `kdseg_jax.predict` does: by `views` and `config`.

    Images are resized to `config.data.size` if it is set, and padded by `config.eval.pad_multiple`;
    predictions are at their own sizes. Each size compiles a program.

    Args:
      images: `(H, W, 3)` or `(N, H, W, 3)` uint8 RGB, a path of a picture, or a list of images and
        paths.
      batch_size: how many images of one size the model sees at once.
      scores: whether a segmentation has its scores; without them less is computed and held.

    Returns:
      A `Segmentation`, `Classification` or `Detections` for each image, in their order.

    Raises:
      UserError: an image of another type or shape, a file that cannot be read, windows or scales
        for a classifier or a detector.
    """
    if batch_size < 1:
      raise UserError(f'batch_size={batch_size} must be at least 1.')
    images = images_lib.as_list(images)
    config = self.config
    predict = predictor(self.task, self.module, views=self.views, size=tuple(config.data.size),
                        multiple=config.eval.pad_multiple)
    found: dict[int, Prediction] = {}
    for indices, batch in images_lib.batches(images, batch_size):
      found |= zip(indices, predict(self.variables, batch, scores=scores), strict=True)
    return [found[index] for index in range(len(images))]

  def __repr__(self):
    params = sum(math.prod(x.shape) for x in jax.tree.leaves(self.variables.get('params', {})))
    origin = f', checkpoint {self.step} of {self.workdir}' if self.workdir else ''
    return (f'Model({self.config.student.name}, {len(self.classes)} classes, '
            f'{params:,} parameters{origin})')


def load(path: str | os.PathLike, *, checkpoint: str | int = 'best',
         views: Inference | None = None, allow_imports: Sequence[str] = ()) -> Model | Exported:
  """The trained model of a work directory, on the first device; or a StableHLO export.

  Args:
    path: work directory of `train` or `import`, or folder of `export`, which has one checkpoint and
      one view.
    checkpoint: 'best' by the metric of the run (the newest where none was evaluated), 'latest', or
      the number of one that is kept.
    views: what `Model.predict` shows it of an image, an `Inference`; None is `config.eval`.
    allow_imports: names of modules (and with them of those below) from which its config may take
      its model and its task. Methods, data and optimisers are never imported.

  Raises:
    CheckpointError: no such checkpoint, or it does not fit its config.
    UserError: it was written by a newer version, an export cannot be read or run here, or its model
      or task is of a module that is not permitted.
  """
  from kdseg_jax.interop import exported  # which knows what this module defines

  if not exported.is_export(paths.local(path)):
    return restore(path, checkpoint=checkpoint, views=views, allow_imports=allow_imports)
  if checkpoint != 'best' or views is not None:
    raise UserError(f'{path}: is an export, of one checkpoint and for whole images; leave '
                    'checkpoint and views out.')
  return exported.load(path)


def restore(path: str | os.PathLike, *, checkpoint: str | int = 'best',
            views: Inference | None = None, allow_imports: Sequence[str] = (),
            mesh: Mesh | None = None, axis_name: str | None = None,
            check: Callable[[Sequence[str]], None] | None = None) -> Model:
  """`load` for the programs: replicated over a mesh.

  Args:
    path: see `load`.
    checkpoint: likewise.
    views: likewise.
    allow_imports: likewise.
    mesh: devices; None is the first alone.
    axis_name: of its BatchNorm, for a model that may be asked to normalise by a batch that is
      spread over the devices.
    check: called with the model's classes before anything is restored.
  """
  workdir = os.path.abspath(paths.local(path))
  checkpointer = Checkpointer(workdir)
  step = _number(checkpointer, workdir, checkpoint)
  meta = checkpointer.read_meta(step)
  where = f'checkpoint {step} of {workdir}'
  for name in ('config', 'classes'):
    if name not in meta:
      raise CheckpointError(f'{where}: has no {name}; it is damaged or was edited.')
  config = config_files.from_dict(meta['config'], where=where)
  for section in ('student', 'task'):
    references.require_permission(
        config[section].name, allow_imports, field=f'{section}.name', where=where)
  classes = tuple(meta['classes'])
  if check is not None:
    check(classes)
  module = create_module(config.student, len(classes), axis_name=axis_name)
  like = parallel.with_sharding(
      abstract_variables(module), mesh or parallel.create_mesh(jax.local_devices()[:1]))
  variables = checkpointer.restore_model(step, like)
  checkpointer.close()
  return Model(
      module=module, variables=variables, classes=classes, config=config,
      palette=tuple(map(tuple, meta.get('palette') or ())) or None,
      views=create_inference(config) if views is None else views, workdir=workdir, step=step,
      train_step=meta.get('data', {}).get('next_batch', 0))


def create_module(config: ConfigDict, num_classes: int, *, axis_name: str | None = None) -> Any:
  """The network of a config's section `student`; `axis_name` is that of its BatchNorm."""
  fields = {name: value for name, value in config.items() if name not in ('init', 'options')}
  if references.is_reference(config.name):  # fields of another model may be left there by a recipe
    fields = {name: value for name, value in fields.items() if name in outside.MODEL.given}
    known = outside.options_of(outside.MODEL, config.name)
    for option in config.options:
      names.require(option, known, 'field of config.student.options')
    fields |= config.options.items()
  return models.create(num_classes=num_classes, axis_name=axis_name, **fields)


def abstract_variables(module: Any) -> PyTree:
  """`{'params', 'batch_stats'}` of a network as ShapeDtypeStructs."""
  return jax.tree.map(lambda x: x, _abstract_variables(module))  # no caller shares its dicts


@functools.lru_cache
def _abstract_variables(module):
  variables = jax.eval_shape(lambda: dict(module.init(
      {'params': jax.random.key(0)}, jnp.zeros((1, 64, 64, 3), jnp.uint8))))
  return {'params': variables['params'], 'batch_stats': variables.get('batch_stats', {})}


def leaves_of_classes(model_config: ConfigDict, num_classes: int) -> set[str]:
  """Paths of a model's leaves whose shapes follow from the number of classes."""
  ours, others = (traverse_util.flatten_dict(abstract_variables(
      create_module(model_config, count)), sep='/') for count in (num_classes, num_classes + 1))
  return {path for path, leaf in ours.items() if leaf.shape != others[path].shape}


def _number(checkpointer, workdir, checkpoint):
  """The number of the checkpoint that is asked for."""
  if checkpoint == 'best':
    return checkpointer.best_step()
  if checkpoint == 'latest':
    return checkpointer.latest_step()
  steps = saved_steps(workdir)
  if checkpoint not in steps:
    raise CheckpointError(
        f"{workdir} has no checkpoint {checkpoint!r}; expected 'best', 'latest' or one of "
        f'{", ".join(map(str, steps))}.')
  return checkpoint
