"""Detection: the loss of a model's dense head, COCO AP over all images, predicted boxes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kdseg_jax import coco_ap, models, names, references
from kdseg_jax.data import files, fitted
from kdseg_jax.errors import UserError
from kdseg_jax.inference.views import WHOLE_IMAGE, Inference, apply_frozen
from kdseg_jax.tasks.base import Field, MainMetric, Outputs
from kdseg_jax.tasks.box_check import BoxCheck
from kdseg_jax.tasks.box_fields import box_fields
from kdseg_jax.tasks.detection import heads, suppression

HEADS: dict[str, type[heads.DenseHead]] = {
    'gfl': heads.GFL, 'retinanet': heads.RetinaNet, 'fcos': heads.FCOS, 'atss': heads.ATSS}
_OUTPUTS = ('cls', 'reg', 'centerness')
_COUNTED_TO = 32  # of the padding, anchors up to this multiple learn, as mmdetection's do
_DETECTED, _TRUE = 'detected_', 'true_'


class Detections(NamedTuple):
  """What was detected in an image, the surest first.

  Attributes:
    boxes: `(D, 4)` float32, x1 y1 x2 y2 in pixels of the image as it was given.
    classes: `(D,)` int32, indices into `Model.classes`.
    scores: `(D,)` float32 in [0, 1].
  """

  boxes: np.ndarray
  classes: np.ndarray
  scores: np.ndarray


@dataclasses.dataclass(frozen=True)
class DetectionTask:
  """The loss of the model's dense head on its raw outputs, and COCO AP of what it detects.

  Crowds and difficult objects are not learned; to AP they count neither way.

  Attributes:
    num_classes: number of classes; there is none for the background.
    head: whose outputs the taps `cls`, `reg` and `centerness` are, one of `HEADS`. In a config ''
      is that of `config.student.name`, see `head_of`.
    max_boxes: the most boxes of an image that a batch holds; the rest is left out, with a warning.
    box_loss: of FCOS, 'iou_log' or 'giou'.
    center_sampling: of FCOS: whether points must be near the centre of a box.
  """

  num_classes: int
  head: str = ''
  max_boxes: int = 100
  box_loss: str = 'iou_log'
  center_sampling: bool = False

  name: ClassVar[str] = 'detection'
  main_metric: ClassVar[MainMetric] = MainMetric('AP', 'AP', scale=100, per_class='per_class_AP')

  def __post_init__(self):
    if self.head:
      names.require(self.head, HEADS, 'config.task.head')
    names.require(self.box_loss, heads.FCOS_BOX_LOSSES, 'config.task.box_loss')
    if self.head not in ('', 'fcos') and self._fcos != type(self)(self.num_classes)._fcos:
      raise UserError(f'config.task.box_loss={self.box_loss} and center_sampling='
                      f'{self.center_sampling} are of FCOS, and the head is {self.head}. Leave '
                      'both at their defaults, or choose a model fcos_*.')

  @property
  def fields(self) -> Mapping[str, Field]:
    """Boxes and what belongs to each of them, see `box_fields`."""
    return box_fields(self.max_boxes)

  def dense_head(self, model: Any = None) -> heads.DenseHead:
    """What a head learns and detects: of a model that says which it has (`head_kind`), else `head`.

    Raises:
      UserError: neither says it.
    """
    kind = getattr(model, 'head_kind', self.head)
    if not kind:
      raise UserError(f'config.task.head is empty; expected one of {", ".join(HEADS)}.')
    return HEADS[kind](self.num_classes, **self._fcos if kind == 'fcos' else {})

  @property
  def _fcos(self):
    return {'box_loss': self.box_loss, 'center_sampling': self.center_sampling}

  def loss(self, taps: dict, batch: dict, *, axis_name: str | None = None):
    """The head's loss; see `heads.DenseHead.loss` for it, its targets and its metrics.

    Padding at the bottom and right of an image learns up to the next multiple of 32 alone.

    Returns:
      `(loss, (targets, metrics))`.
    """
    head = self.dense_head()
    truth = heads.GroundTruth(batch['boxes'], jnp.maximum(batch['classes'], 0),
                              (batch['classes'] >= 0) & ~batch['crowd'])
    return head.loss(_raw(taps), truth, sizes=counted_sizes(batch['mask']), axis_name=axis_name)

  def scorer(self, model: Any, views: Inference = WHOLE_IMAGE) -> Callable:
    """`(variables, batch) -> suppression.Detections` in pixels of the batch's images.

    Sources bring images to their size (`data.Fitted`). A teacher may have another head.

    Raises:
      UserError: windows, scales, mirror images or a centre are asked for.
    """
    check_views(views)
    head = self.dense_head(model)

    def detect(variables, batch):
      raw: Any = apply_frozen(model, variables, batch)[0]
      return head.detections(raw, sizes=sizes_of(batch['mask']))
    return detect

  def predictor(self, model: Any, views: Inference = WHOLE_IMAGE, *, size: tuple[int, ...] = (),
                multiple: int = 1) -> Callable:
    """`(variables, images, *, scores) -> list[Detections]`, in pixels of the images.

    Of all sizes one program is compiled if `views` has a canvas (two if it is turned), else one a
    size.

    Raises:
      UserError: as `scorer`.
    """
    detect = jax.jit(self.scorer(model, views))

    def predict(variables, images, *, scores):
      del scores  # they cost nothing here
      batch, scale = seen(images, views, size, multiple)
      found = jax.tree.map(np.asarray, detect(variables, batch))
      return of_images(found, scale, images.shape[1:3])
    return predict

  def outputs(self, scores: suppression.Detections, batch: Mapping[str, Any]) -> Outputs:
    """What was detected in each image and what is in it, and the `scale` of both."""
    found = {f'{_DETECTED}{name}': value for name, value in scores._asdict().items()}
    truth = {f'{_TRUE}{name}': batch[name] for name in ('boxes', 'classes', 'crowd', 'area')}
    return Outputs(examples=found | truth | {'scale': batch['scale']})

  def predictions(self, scores: suppression.Detections, batch: Mapping[str, Any]
                  ) -> dict[str, jax.Array]:
    """`boxes` `(N, D, 4)`, `classes` `(N, D)`, -1 where there is none, and `scores` `(N, D)`."""
    del batch
    return scores._asdict()

  def accumulator(self) -> FoundBoxes:
    """A fresh one."""
    return FoundBoxes(self)

  def data_check(self, classes: Iterable[str]) -> BoxCheck:
    """Counts the boxes of each class."""
    return BoxCheck(classes, self.max_boxes)


class FoundBoxes:
  """What was detected beside what is in the images, in pixels of their files.

  Args:
    task: whose they are.

  Attributes:
    results: of all images.
  """

  def __init__(self, task: DetectionTask):
    self.results = coco_ap.CocoResults(task.num_classes)

  def add(self, outputs: Outputs) -> None:
    """Adds one batch."""
    examples = outputs.examples
    for i, index in enumerate(examples['index']):
      truth, found = ({name.removeprefix(kind): value[i] for name, value in examples.items()
                       if name.startswith(kind)} for kind in (_TRUE, _DETECTED))
      for boxes in (truth, found):
        boxes['boxes'] = boxes['boxes'] / np.tile(examples['scale'][i], 2)
      self.results.add(int(index), truth, found)

  def summarize(self) -> dict[str, Any]:
    """The 12 figures of COCO, `per_class_AP` and `images`; see `metrics.coco_ap`."""
    return self.results.summarize()


def head_of(model: str, head: str) -> str:
  """The head of a model by its name, or the one that is given for a model from elsewhere.

  Raises:
    UserError: it is no detector, or has another head.
  """
  if references.is_reference(model):
    if not head:
      raise UserError(f'config.student.name={model}: set config.task.head to that whose outputs it '
                      f'has, one of {", ".join(HEADS)}.')
    return head
  own = model.partition('_')[0]
  if model not in models.DETECTORS:
    raise UserError(f'config.student.name={model} is no detector: detection needs a dense head on '
                    f'a backbone, one of {", ".join(HEADS)}, as gfl_resnet18.')
  if head not in ('', own):
    raise UserError(f'config.task.head={head}: the head of config.student.name={model} is {own}. '
                    'Leave it empty.')
  return own


def _raw(taps):
  """The outputs of a head among the taps."""
  return {name: taps[name] for name in _OUTPUTS if name in taps}


def sizes_of(mask: jax.Array) -> jax.Array:
  """`(N, 2)` height and width of images without their padding."""
  return jnp.stack([jnp.sum(jnp.any(mask, axis=3 - axis), axis=1, dtype=jnp.int32)
                    for axis in (1, 2)], axis=1)


def counted_sizes(mask: jax.Array) -> jax.Array:
  """`(N, 2)` height and width of the part of images whose anchors learn, see `loss`."""
  return -(-sizes_of(mask) // _COUNTED_TO) * _COUNTED_TO


def seen(images: np.ndarray, views: Inference, size: Any = (), multiple: int = 1
         ) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """The batch that a model sees of images of one size, and `(2,)` its scale in x and y.

  Args:
    images: `(N, H, W, 3)` uint8.
    views: what is seen of them: whole, or fitted into a canvas or sides.
    size: (height, width) to which they are resized before; () is their own.
    multiple: of which their size, or that of the canvas, becomes a multiple by padding.
  """
  own: Any = images.shape[1:3]
  shown: Any = tuple(size) or own
  canvas: Any = views.canvas or None
  sides: Any = views.sides or None
  if size:
    images = np.stack([files.resize_image(image, shown) for image in images])
  if views.is_fitted:
    if canvas and views.by_orientation:
      canvas = fitted.turned(canvas, like=shown)
    shown = fitted.fitted_size(shown, canvas, sides)
  resized = [files.resize_image(image, shown) for image in images]
  canvas = tuple(side + -side % multiple for side in canvas or shown)
  placed, masks = zip(*(fitted.on_canvas(image, canvas) for image in resized), strict=True)
  batch = {'image': np.stack(placed), 'mask': np.stack(masks),
           'index': np.arange(len(images), dtype=np.int32)}
  return batch, np.array([shown[1] / own[1], shown[0] / own[0]], np.float32)


def of_images(found: suppression.Detections, scale: np.ndarray, size: tuple[int, int]
              ) -> list[Detections]:
  """What was detected in each image, in its own pixels.

  Args:
    found: in the pixels of what the model saw.
    scale: of `seen`.
    size: (height, width) of the images, beyond which a division can round a corner.
  """
  corners = np.array((size[1], size[0]) * 2, np.float32)
  return [Detections(np.minimum(boxes[kept] / np.tile(scale, 2), corners), classes[kept],
                     values[kept])
          for boxes, values, classes, kept in zip(*found, found.valid, strict=True)]


def check_views(views: Inference) -> None:
  """Raises UserError unless the whole image is seen, once."""
  if not views.is_plain or views.crop:
    raise UserError(f'A detector sees whole images only, not {views}. Leave config.eval.window, '
                    'scales, flip, crop and short_side at their defaults; canvas gives all images '
                    'one size.')
