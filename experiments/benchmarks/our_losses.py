"""Our losses, value and gradient, compiled."""

from __future__ import annotations

import functools

import jax

from experiments.benchmarks import inputs
from experiments.benchmarks.worker import Work
from kdseg_jax import losses

# Where the name is not that of the loss, or the loss takes more than its arrays.
_OPTIONS = {
    'channel_wise_logits': ('channel_wise', {}),
    'intra_class_variation': ('intra_class_variation', {'num_classes': inputs.CLASSES}),
    'memory_similarity_pixel': ('memory_similarity', {}),
    'memory_similarity_region': ('memory_similarity', {}),
}

_ORDER = ('teacher', 'targets', 'labels', 'contrast')  # of arguments; jax sorts a dict


def create(name, args) -> Work:
  """The loss of a name on its arrays of `inputs.arrays`."""
  del args
  arrays = {key: jax.device_put(x) for key, x in inputs.arrays(name).items()}
  student, loss = arrays.pop('student'), compiled(name)
  run = lambda: jax.block_until_ready(loss(student, arrays))
  return Work(run, facts=lambda result: {'value': float(result[0])})


def compiled(name):
  """`(student, other arrays) -> (value, gradient)` of a loss of `inputs.arrays`."""
  return jax.jit(jax.value_and_grad(functools.partial(_evaluate, name)))


def _evaluate(name, student, arrays):
  if name == 'double_similarity_pixel':
    return losses.double_similarity_pixel(
        [arrays['student_logits'], student], [arrays['teacher_logits'], arrays['teacher']])
  if name == 'pairwise_affinity_nodes':
    return losses.pairwise_affinity(
        student, arrays['teacher'], node_size=losses.scaled_node_size(student.shape[1:3], 0.5))
  if name == 'hierarchical_context':
    return losses.hierarchical_context(student, arrays['teacher'])
  if name == 'align_statistics':  # a map: how far it is from 0 has the gradient of all of it
    return (losses.align_statistics(student, arrays['teacher'])**2).mean()
  if name == 'autoencoder_reconstruction':
    return losses.autoencoder_reconstruction(arrays['teacher'], student, arrays['code'])
  if name == 'sigmoid_focal':
    return losses.sigmoid_focal(student, (arrays['teacher'] > 2).astype(student.dtype))
  if name == 'quality_focal':
    return losses.quality_focal(student, jax.nn.sigmoid(arrays['teacher']))
  function, options = _OPTIONS.get(name, (name, {}))
  given = (arrays[key] for key in _ORDER if key in arrays)
  return getattr(losses, function)(student, *given, **options)
