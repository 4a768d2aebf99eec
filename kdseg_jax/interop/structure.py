"""What the shapes of a state dict say about the model that they are of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from kdseg_jax import models
from kdseg_jax.interop.conversion import WeightsError
from kdseg_jax.interop.layers import Layer

_NORM_GROUPS = 32  # of detectors, in all of mmdetection's configs


class Structure(NamedTuple):
  """What cannot be told from the name of a model.

  Attributes:
    num_classes: of its classifier.
    student: fields of `config.student`: `aux`, always; of models that have them `deep_stem` and
      `head_channels`; with an auxiliary head `aux_channels` and `aux_bias`; of detectors the
      options that the shapes follow from.
  """

  num_classes: int
  student: dict[str, Any]


def read(model: str, state_dict: Mapping[str, np.ndarray], layers: Iterable[Layer]) -> Structure:
  """The structure of a model whose arrays are given.

  Args:
    model: name of ours.
    state_dict: arrays by PyTorch's names.
    layers: of the naming scheme, for this model.

  Raises:
    WeightsError: the classifier is missing, or its array has no shape that one can have.
  """
  by_path = {layer.ours: layer for layer in layers}
  if model in models.DETECTORS:
    return _detector(model, state_dict, by_path)
  present = {path for path, layer in by_path.items() if layer.key('kernel') in state_dict}
  *_, embedding, num_classes = _kernel_shape(state_dict, by_path['head/classifier'])
  student = {'aux': 'auxiliary_head/classifier' in present}
  if student['aux']:
    conv = by_path['auxiliary_head/conv/conv']
    student |= {'aux_channels': _kernel_shape(state_dict, conv)[-1],
                'aux_bias': conv.key('bias') in state_dict}
  if 'deep_stem' in models.options_of(model):
    student['deep_stem'] = 'backbone/stem2/conv' in present
  if model not in models.CLASSIFIERS and 'head/conv/conv' in present:
    student['head_channels'] = embedding
  return Structure(num_classes, student)


def _detector(model, state_dict, by_path):
  shape = lambda path: _kernel_shape(state_dict, by_path[path])
  logits, numbers = shape('head/cls')[-1], shape('head/reg')[-1]
  head = models.create(model, 1).head
  if logits % head.anchors or model.startswith('gfl_') and numbers % 4:
    raise WeightsError(
        f'{by_path["head/cls"].key("kernel")} and {by_path["head/reg"].key("kernel")} have '
        f'{logits} and {numbers} outputs, which {model} with {head.anchors} anchors a position '
        'cannot have.')
  present = {path for path, layer in by_path.items()
             if {layer.key('kernel'), layer.key('scale')} & set(state_dict)}
  towers = [path for path in present if path.startswith('head/cls_convs_')]
  normalized = any(path.endswith('/norm') for path in towers)
  biased = any(by_path[path].key('bias') in state_dict for path in towers if path.endswith('/conv'))
  stage, (*_, p6, levels) = shape('fpn/p5_lateral')[-2], shape('fpn/p6')
  student = {
      'aux': False, 'head_channels': shape('head/cls')[-2], 'fpn_channels': levels,
      'stacked_convs': sum(path.endswith('/conv') for path in towers),
      'norm_groups': _NORM_GROUPS if normalized else 0, 'tower_bias': normalized and biased,
      'deep_stem': 'backbone/stem2/conv' in present}
  if stage != levels:
    student['extra_convs'] = 'on_input' if p6 == stage else 'on_output'
  if model.startswith('gfl_'):
    student['reg_max'] = numbers // 4 - 1
  return Structure(logits // head.anchors, student)


def _kernel_shape(state_dict, layer):
  """Of a convolution or a linear layer, in our order: inputs and outputs last."""
  key = layer.key('kernel')
  if key not in state_dict:
    raise WeightsError(f'{key} is missing: without it the number of classes, or the width of a '
                       'head, is not known.')
  array = np.asarray(state_dict[key])
  if array.ndim not in (2, 4):
    raise WeightsError(f'{key} has shape {array.shape}; expected a kernel, of 2 or 4 axes.')
  return layer.to_ours('kernel', array).shape
