"""Our forward passes and train steps, of one program or two as a run has them."""

from __future__ import annotations

import math
import tempfile

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import inputs
from experiments.benchmarks.worker import Work
from kdseg_jax import models, parallel
from kdseg_jax.inference.views import apply_frozen
from kdseg_jax.models import conv, lowerings
from kdseg_jax.models.folding import Folded, fold
from kdseg_jax.recipes import common
from kdseg_jax.training import experiment as experiments
from kdseg_jax.training import preparations, profiling, programs, trace

_NAMES = {'resnet18': 'deeplabv3_resnet18', 'resnet101': 'deeplabv3_resnet101',
          'mobilenetv2': 'deeplabv3_mobilenetv2'}


def create(name, args) -> Work:
  """`inputs.Step`, of kind forward, step, rate, or a method; or `rate_product`."""
  del args
  if name == 'rate_product':
    return product_rate()
  what = inputs.Step.parse(name)
  return {'forward': forward, 'rate': step_rate}.get(what.kind, step)(what)


def forward(what) -> Work:
  """A frozen model's pass, of which the logits and the embedding are kept, as a method reads.

  On CPU its BatchNorms are folded, as a run's teacher has them.
  """
  images, _ = inputs.batch(what.size)
  module, variables = untrained(what, images)
  count = _count(variables['params'])
  if jax.default_backend() == 'cpu':
    variables = fold(module, variables, images.shape, donate=True)
  batch = {'image': jax.device_put(images), 'mask': jnp.ones(images.shape[:3], bool),
           'index': jnp.arange(len(images))}

  @jax.jit
  def run(variables, batch):
    taps = apply_frozen(Folded(module), variables, batch, batch_statistics=False)[1]
    return taps['logits'], taps['embedding']

  return Work(lambda: jax.block_until_ready(run(variables, batch)), len(images),
              lambda _: {'parameters': count})


def step(what) -> Work:
  """A train step with SGD, alone (`step`) or with a method and a frozen ResNet-101."""
  advance, count, _ = _prepare(what)
  return Work(advance, what.size[0], lambda _: {'parameters': count})


def _prepare(what):
  """What takes a run one step further, its student's parameters, and its program."""
  images, labels = inputs.batch(what.size)
  method = 'none' if what.kind in ('step', 'rate') else what.kind
  config, teacher = create_config(method, what), None
  if method != 'none':
    config, teacher = profiling.untrained_teacher(
        config, create_config('none', what._replace(model='resnet101')))
  experiment = experiments.create_experiment(config, teacher=teacher)
  state = experiments.initial_state(experiment, preparations.placeholders(experiment))
  batch = {'image': images, 'mask': np.ones(images.shape[:3], bool),
           'index': np.arange(len(images), dtype=np.int32), 'label': labels}
  student = programs.student_program(experiment)
  run = programs.train_step_of(experiment, student, donate_teacher=True)
  batch, count = student.place(batch), _count(state.params)

  def advance():
    nonlocal state
    state, metrics = run(state, batch)
    return float(metrics['loss'])

  return advance, count, student


def operations(what) -> float:
  """Operations of a train step's convolutions and dense layers, however they are computed.

  2 a multiply-add; forward, and twice that for the gradients of input and kernel; taps on padding
  are not counted, as nothing need be done for them.
  """
  module = models.create(_NAMES[what.model], inputs.SCENES_CLASSES)
  found = []

  def count(next_function, args, kwargs, context):
    outputs = next_function(*args, **kwargs)
    layer = context.module
    if context.method_name == '__call__' and isinstance(layer, conv.Conv):
      x, k = args[0], layer.kernel_size
      shape = (k, k, x.shape[-1] // layer.groups, layer.features)
      padding = k // 2 * layer.dilation
      geometry = lowerings.Geometry(
          (layer.strides,) * 2, (layer.dilation,) * 2, (padding,) * 2, layer.groups)
      share = lowerings.valid_share(x.shape, shape, geometry)
      found.append(math.prod(outputs.shape) * math.prod(shape[:3]) * share)
    return outputs

  with nn.intercept_methods(count):
    jax.eval_shape(module.init, {'params': jax.random.key(0)},
                   jax.ShapeDtypeStruct((*what.size, 3), jnp.uint8))
  return 3 * 2 * sum(found)


def product_rate() -> Work:
  """Operations a second of a matrix product."""
  side = 2048
  x = jax.device_put(inputs.normal((side, side), 0))
  run = jax.jit(jnp.matmul)
  return Work(lambda: jax.block_until_ready(run(x, x)), 2.0 * side**3)


def step_rate(what) -> Work:
  """Operations a second of a step."""
  advance, _, program = _prepare(what)

  def facts(_):
    with tempfile.TemporaryDirectory() as folder:
      trace.record(folder, advance)
      return {'operations': {
          found.kind: found.seconds for found in trace.operations(folder, program.hlo())}}

  return Work(advance, operations(what), facts)


def create_config(method, what):
  """Of a run on the built-in data."""
  images, *size = what.size
  config = common.segmentation(method)
  config.augmentation.update(crop=tuple(size), scale=())
  config.data.size = tuple(size)
  config.train.update(steps=1_000_000, batch_size=images)
  config.optimizer.update(learning_rate=1e-4)
  config.memory_limit_gb = 100.0
  config.student.update(name=_NAMES[what.model], aux=False, dtype=what.dtype)
  return config


def untrained(what, images):
  """`(module, variables)` of a model with random weights."""
  module = models.create(_NAMES[what.model], inputs.SCENES_CLASSES, dtype=jnp.dtype(what.dtype))
  init = jax.jit(lambda: module.init({'params': jax.random.key(0)}, images[:1]),
                 compiler_options=parallel.compiler_options(0))
  return module, init()


def _count(params):
  return sum(x.size for x in jax.tree.leaves(params))
