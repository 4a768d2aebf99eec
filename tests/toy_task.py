"""A toy task, regression of a number: smaller is better, and there are no classes.

Nothing of the package knows it: `register` adds it, with data and a model, for a test.
"""

import dataclasses
import json
import pathlib
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kdseg_jax import data, models, tasks
from kdseg_jax.errors import UserError
from kdseg_jax.inference.views import apply_frozen
from kdseg_jax.report import presenters
from kdseg_jax.tasks import DataCheck, Field, MainMetric, Outputs

NAME = 'brightness'


class Number(NamedTuple):
  """How bright an image is."""

  value: float


@dataclasses.dataclass(frozen=True)
class Brightness:
  """Predicts how bright an image is; the mean absolute error."""

  num_classes: int
  weight: float = 1.0

  name: ClassVar[str] = NAME
  fields: ClassVar[dict] = {'value': Field(lambda size: (), np.float32, 0.0)}
  main_metric: ClassVar[MainMetric] = MainMetric('error', 'error', maximize=False, digits=4)

  def loss(self, taps, batch, *, axis_name=None):
    difference = taps['value'] - batch['value']
    loss = self.weight * jnp.mean(difference ** 2)
    if axis_name:
      loss = jax.lax.pmean(loss, axis_name)
    return loss, ({'difference': difference}, {'squared': loss})

  def scorer(self, model, views):
    if not views.is_plain:
      raise UserError('A number is of the whole image.')
    return lambda variables, batch: apply_frozen(model, variables, batch)[0]

  def predictor(self, model, views, *, size, multiple):
    del size, multiple
    self.scorer(model, views)
    return lambda variables, images, *, scores: [
        Number(float(value)) for value in model.apply(variables, images)[0]]

  def outputs(self, scores, batch):
    return Outputs(sums={'images': jnp.sum(batch['index'] >= 0)},
                   examples={'error': jnp.abs(scores - batch['value'])})

  def predictions(self, scores, batch):
    del batch
    return {'value': scores}

  def accumulator(self):
    return Errors()

  def data_check(self, classes):
    del classes
    return DataCheck()


class Errors:
  """The errors of all examples, in the order of the source."""

  def __init__(self):
    self.of_example, self.images = {}, 0

  def add(self, outputs):
    self.of_example |= dict(zip(
        outputs.examples['index'].tolist(), outputs.examples['error'].tolist(), strict=True))
    self.images += int(outputs.sums['images'])

  def summarize(self):
    assert self.images == len(self.of_example)
    errors = [self.of_example[index] for index in sorted(self.of_example)]
    return {'error': float(np.mean(errors)), 'worst': float(np.max(errors)), 'images': self.images}


class BrightnessPresenter:
  """Numbers, and the image as it is."""

  figures: ClassVar[dict] = {}
  compares: ClassVar[bool] = True

  def __init__(self, shown):
    del shown

  @staticmethod
  def summary(metrics):
    return f'error {metrics["error"]:.4f} on {metrics["images"]} images'

  def table(self, metrics):
    del metrics
    return ''

  def details(self, metrics, task):
    return [('error', f'{metrics["error"]:.4f} times {task.weight}')]

  def saved(self):
    return {}

  def comparison(self, image, fields, predictions):
    assert fields['value'].shape == predictions['prediction']['value'].shape == ()
    return image

  def writer(self, output, *, main, titles, strips, legend):
    del legend
    return Lines(output, main, titles, strips)


class Lines:
  """Writes a line an image: what the main model predicts, or all of them beside what is known."""

  def __init__(self, output, main, titles, strips):
    self._output, self._main, self._titles, self._strips = output, main, titles, strips
    self._lines = []

  def add(self, example, predictions):
    shown = {self._titles[name]: found.value for name, found in predictions.items()} if (
        self._strips) else {self._main: predictions[self._main].value}
    self._lines.append(json.dumps(
        {'image': example.name, 'known': float(example.fields.get('value', -1)), **shown}))

  def close(self):
    path = pathlib.Path(self._output) / 'lines.txt'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(self._lines))
    return f'{len(self._lines)} lines'


class Images:
  """Grey images of varying sizes, and how bright they are."""

  classes = ()

  def __init__(self, split, size=None):
    self.split, self._seed = split, {'train': 0, 'val': 1000, 'test': 2000}[split]

  def __len__(self):
    return 40 if self.split == 'train' else 11

  def __getitem__(self, index):
    rng = np.random.default_rng(self._seed + index)
    value = rng.uniform()
    size = (6, 8) if index % 3 else (8, 6)
    noise = rng.uniform(-20, 20, (*size, 3))
    image = np.clip(np.rint(255 * value + noise), 0, 255).astype(np.uint8)
    return {'image': image, 'value': np.float32(value), 'image_id': str(index)}


class Model(nn.Module):
  """A line through the scaled mean of an image; `head_from` runs it from there."""

  num_classes: int = 0
  axis_name: str | None = None

  def setup(self):
    self.scale = self.param('scale', nn.initializers.ones, ())
    self.head = nn.Dense(1)

  def __call__(self, image, mask=None, index=None, train=False):
    if mask is None:
      mask = jnp.ones(image.shape[:3], bool)
    brightness = (image / 255).mean(axis=-1)
    pooled = self.scale * jnp.mean(brightness, axis=(1, 2), where=mask)[:, None]
    taps = self.head_from({'pooled': pooled}, 0)
    return taps['value'], taps

  def head_from(self, features, layer):
    del layer
    return features | {'value': self.head(features['pooled'])[:, 0]}


def register(patch):
  """Adds the task, its presenter, its data and its model."""
  patch.setitem(tasks.TASKS, NAME, Brightness)
  patch.setitem(presenters.PRESENTERS, NAME, BrightnessPresenter)
  patch.setitem(data._SOURCES, NAME, Images)
  patch.setattr(models, 'create', lambda name, num_classes, axis_name, **_: Model(
      num_classes=num_classes, axis_name=axis_name))
