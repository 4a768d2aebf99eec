"""The dense heads, and detectors as a whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import models
from kdseg_jax.errors import UserError
from kdseg_jax.models.dense_detector import ATSSHead, FCOSHead, GFLHead, RetinaNetHead
from kdseg_jax.training.freezing import FrozenModel
from tests.models import official_detectors as official

HEADS = {'gfl': GFLHead, 'retinanet': RetinaNetHead, 'fcos': FCOSHead, 'atss': ATSSHead}
NUMBERS = {'gfl': {'cls': 3, 'reg': 68}, 'retinanet': {'cls': 27, 'reg': 36},
           'fcos': {'cls': 3, 'reg': 4, 'centerness': 1},
           'atss': {'cls': 3, 'reg': 4, 'centerness': 1}}
SIZES = ((5, 3), (3, 2), (2, 1), (1, 1), (1, 1))


def maps(channels=16, sizes=SIZES, dtype=np.float32):
  rng = np.random.default_rng(0)
  return tuple(rng.standard_normal((2, *size, channels)).astype(dtype) for size in sizes)


def towers(layer, found):
  return {name: found[name] for name in (f'cls_tower_{layer}', f'reg_tower_{layer}')}


def run(head, variables, features, layer):
  return jax.jit(head.apply, static_argnums=2)(variables, features, layer)


@functools.cache
def small(name, **options):
  """A head with 2 convolutions in a tower, its variables and its taps."""
  head = HEADS[name](num_classes=3, channels=16, stacked_convs=2, **options)
  features = {'cls_tower_0': maps(), 'reg_tower_0': maps()}
  variables = jax.jit(head.init, static_argnums=2)(jax.random.key(0), features, 0)
  # What begins at 0 or 1 would hide where it goes.
  draws = np.random.default_rng(1)
  variables = jax.tree.map(
      lambda x: x + 0.3 * draws.standard_normal(x.shape).astype(np.float32), variables)
  return head, variables, run(head, variables, features, 0)


@pytest.mark.parametrize('name, head', [
    ('gfl', GFLHead(num_classes=5, channels=16, norm_groups=4)),
    ('fcos', FCOSHead(num_classes=5, channels=16, norm_groups=4))])
def test_equals_the_official_head(name, head):
  expected = official.arrays(f'cross_det_{name}')
  variables = official.variables(
      expected, 'tea.', 'bbox_head.', 'head', f'{name}_resnet18')
  features = tuple(expected[f'tfeat{i}'] for i in range(5))
  made = run(head, variables, {'cls_tower_0': features, 'reg_tower_0': features}, 0)
  every = 5 if name == 'gfl' else 1  # of the channels of reg, are kept
  for i in range(5):
    for output, theirs in (('cls', 'cls'), ('reg', 'reg'), ('centerness', 'ctr')):
      if output in head.outputs:
        found = made[output][i][..., ::every if output == 'reg' else 1]
        wanted = expected[f'tea_{theirs}{i}']
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize('name', HEADS)
def test_taps_and_outputs(name):
  head, _, taps = small(name)
  assert set(taps) == {*NUMBERS[name], *(f'{branch}_tower_{i}' for branch in ('cls', 'reg')
                                         for i in range(3))}
  assert set(head.outputs) == set(NUMBERS[name])
  for tap, levels in taps.items():
    channels = NUMBERS[name].get(tap, 16)
    assert [x.shape for x in levels] == [(2, *size, channels) for size in SIZES]
  assert all(x.min() >= 0 for x in taps['cls_tower_2'])  # after the ReLU
  np.testing.assert_array_equal(taps['reg_tower_0'][0], maps()[0])


@pytest.mark.parametrize('name', HEADS)
@pytest.mark.parametrize('layer', [1, 2])
def test_from_a_layer_on_it_is_the_head(name, layer):
  head, variables, taps = small(name)
  made = run(head, variables, towers(layer, taps), layer)
  assert set(made) == set(taps) - {
      f'{branch}_tower_{i}' for branch in ('cls', 'reg') for i in range(layer)}
  for tap, levels in made.items():
    for found, expected in zip(levels, taps[tap], strict=True):
      np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_towers_do_not_mix():
  """`reg` and ATSS' centerness are of the second tower, FCOS' of the one that is asked for."""
  for name, options, changed in (
      ('gfl', {}, {'cls'}), ('atss', {}, {'cls'}), ('fcos', {}, {'cls', 'centerness'}),
      ('fcos', {'centerness_on_reg': True}, {'cls'})):
    head, variables, taps = small(name, **options)
    features = {'cls_tower_2': [1 + x for x in taps['cls_tower_2']],
                'reg_tower_2': taps['reg_tower_2']}
    made = run(head, variables, features, 2)
    assert {output for output in head.outputs
            if not np.allclose(made[output][0], taps[output][0], atol=1e-4)} == changed


@pytest.mark.parametrize('name', ['gfl', 'atss', 'fcos'])
def test_scale_is_of_a_level(name):
  head, variables, taps = small(name)
  params = dict(variables['params'])
  params['scales_3'] = {'factor': params['scales_3']['factor'] + 1}
  made = run(head, {'params': params}, towers(2, taps), 2)
  equal = [np.allclose(*pair, rtol=1e-5) for pair in zip(made['reg'], taps['reg'])]
  assert equal == [True, True, True, False, True]


def test_distances_of_fcos():
  """Those normalised by the stride are in pixels too, and none is negative."""
  head, variables, taps = small('fcos')
  other, *_ = small('fcos', norm_on_bbox=True)
  made = run(other, variables, towers(2, taps), 2)
  for stride, found, distances in zip((8, 16, 32, 64, 128), made['reg'], taps['reg']):
    np.testing.assert_allclose(
        found, stride * np.maximum(np.log(distances), 0), rtol=1e-3, atol=1e-3)


def test_norm_and_bias_of_the_towers():
  def parts(name, **options):
    head = HEADS[name](num_classes=3, channels=16, stacked_convs=1, **options)
    features = {'cls_tower_0': maps(), 'reg_tower_0': maps()}
    made = jax.eval_shape(lambda: head.init(jax.random.key(0), features, 0))
    layer = made['params']['reg_convs_0']
    return {*layer, *layer['conv']} - {'conv', 'kernel'}
  assert parts('gfl') == {'norm'} and parts('gfl', tower_bias=True) == {'norm', 'bias'}
  assert parts('retinanet') == parts('gfl', norm_groups=0) == {'bias'}
  assert parts('retinanet', norm_groups=2) == {'norm'}


def test_one_group_of_a_norm_has_eight_channels():
  """So that a narrow head on a map of one pixel is not the bias alone."""
  assert GFLHead(3, 256).groups == 32 and GFLHead(3, 64).groups == 8
  assert GFLHead(3, 256, norm_groups=16).groups == 16 and RetinaNetHead(3, 256).groups == 0


def test_every_class_is_improbable_at_first():
  head = RetinaNetHead(num_classes=3, channels=8, stacked_convs=0)
  features = {'cls_tower_0': maps(8, 5 * SIZES[4:])}
  features['reg_tower_0'] = features['cls_tower_0']
  params = jax.jit(head.init, static_argnums=2)(jax.random.key(0), features, 0)['params']
  np.testing.assert_allclose(jax.nn.sigmoid(params['cls']['bias']), 0.01, rtol=1e-5)
  np.testing.assert_array_equal(params['reg']['bias'], 0)
  assert np.std(params['reg']['kernel']) == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize('features, layer, message', [
    ({}, 3, 'layer=3: the head has 2 convolutions in a tower; expected 0 to 2'),
    ({'cls_tower_1': maps()}, 1, 'from layer 1 on takes reg_tower_1, got cls_tower_1'),
    ({'cls_tower_2': maps()[:3], 'reg_tower_2': maps()}, 2, 'cls_tower_2: .* 5 levels, got 3')])
def test_features_that_do_not_fit(features, layer, message):
  head, variables, _ = small('gfl')
  with pytest.raises(UserError, match=message):
    head.apply(variables, features, layer)


@functools.cache
def detector(name='gfl_resnet18', size=(70, 101), **options):
  """A narrow one, its variables, and what it says of two images."""
  model = models.create(name, 3, width=0.125, stacked_convs=1, **options)
  image = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
  variables = jax.jit(model.init)(jax.random.key(0), image)
  return model, variables, image, jax.jit(model.apply)(variables, image)


def test_prediction_and_taps():
  """Of an image whose sides no stride divides."""
  _, _, _, (prediction, taps) = detector()
  sizes = [(9, 13), (5, 7), (3, 4), (2, 2), (1, 1)]
  assert {output: [x.shape for x in levels] for output, levels in prediction.items()} == {
      output: [(2, *size, channels) for size in sizes]
      for output, channels in (('cls', 3), ('reg', 68))}
  assert [taps[f'p{i}'].shape for i in range(3, 8)] == [(2, *size, 32) for size in sizes]
  assert taps['stage4'].shape == (2, 3, 4, 64)
  for level, found in zip(range(3, 8), taps['cls_tower_0'], strict=True):
    np.testing.assert_array_equal(found, taps[f'p{level}'])
  assert all(np.isfinite(x).all() for x in jax.tree.leaves((prediction, taps)))


@pytest.mark.parametrize('layer', [0, 1])
def test_head_from(layer):
  model, variables, _, (prediction, taps) = detector()
  made = jax.jit(functools.partial(model.apply, method='head_from'), static_argnums=2)(
      variables, taps, layer)
  for output, levels in prediction.items():
    for found, expected in zip(made[output], levels, strict=True):
      np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_head_from_features_of_another_width():
  model, variables, _, _ = detector()
  for layer, width in ((0, 16), (1, 40)):
    features = {f'{branch}_tower_{layer}': maps(width) for branch in ('cls', 'reg')}
    with pytest.raises(UserError, match=f'tower_{layer} has {width} channels; the head takes 32'):
      model.apply(variables, features, layer, method='head_from')


@pytest.mark.parametrize('layer, width', [(0, 24), (1, 40)])
def test_layer_0_takes_the_width_of_the_pyramid_and_others_that_of_the_towers(layer, width):
  model = models.create(
      'gfl_resnet18', 3, width=0.125, stacked_convs=1, fpn_channels=24, head_channels=40)
  variables = jax.eval_shape(
      model.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.uint8))
  shape = functools.partial(
      jax.eval_shape, functools.partial(model.apply, method='head_from', layer=layer), variables)
  of = lambda width: {f'{branch}_tower_{layer}': maps(width) for branch in ('cls', 'reg')}
  assert shape(of(width))
  with pytest.raises(UserError, match=f'the head takes {width} from layer {layer} on'):
    shape(of(64 - width))


def test_padding_does_not_matter_to_what_it_hides():
  model, variables, image, _ = detector()
  mask = np.ones(image.shape[:3], bool)
  mask[:, 60:] = mask[:, :, 90:] = False
  apply = jax.jit(model.apply)
  first, _ = apply(variables, image, mask)
  second, _ = apply(variables, np.where(mask[..., None], image, 7), mask)
  jax.tree.map(np.testing.assert_array_equal, first, second)


def test_one_program_for_images_of_one_size():
  model, variables, image, _ = detector()
  traces = []

  @jax.jit
  def predict(variables, image):
    traces.append(image.shape)
    return model.apply(variables, image)[0]
  for seed in range(2):
    predict(variables, image + np.uint8(seed))
  assert len(traces) == 1


def test_bfloat16_inside_and_float32_outside():
  model, variables, _, (expected, _) = detector()
  low = models.create('gfl_resnet18', 3, width=0.125, stacked_convs=1, dtype='bfloat16')
  prediction, taps = jax.jit(low.apply)(variables, detector()[2])
  assert {x.dtype for x in jax.tree.leaves(prediction)} == {jnp.dtype('float32')}
  assert {x.dtype for x in (*taps['cls_tower_1'], taps['p5'])} == {jnp.dtype('bfloat16')}
  np.testing.assert_allclose(prediction['cls'][0], expected['cls'][0], atol=0.05)


def test_frozen_statistics():
  """Training leaves the statistics, and gives what evaluation gives; scales have a gradient."""
  model, variables, image, (prediction, _) = detector(frozen_statistics=True)

  @jax.jit
  def train(params):
    (found, _), updated = model.apply(
        {**variables, 'params': params}, image, train=True, mutable=['batch_stats'])
    return jnp.sum(found['cls'][1] ** 2), (found, updated)
  gradient, (found, updated) = jax.grad(train, has_aux=True)(variables['params'])
  jax.tree.map(np.testing.assert_array_equal, updated['batch_stats'], variables['batch_stats'])
  np.testing.assert_allclose(found['reg'][0], prediction['reg'][0], rtol=1e-4, atol=1e-5)
  assert jnp.abs(gradient['backbone']['stage1_block0']['conv1']['norm']['norm']['scale']).max() > 0


def test_frozen_stages():
  """By the patterns of `config.train.freeze`: their BatchNorms keep their statistics."""
  model, variables, image, _ = detector()
  frozen = FrozenModel(model, ('backbone/stem*', 'backbone/stage1*'))
  _, updated = jax.jit(lambda variables, image: frozen.apply(
      variables, image, train=True, mutable=['batch_stats']))(variables, image)
  moved = jax.tree.map(
      lambda x, y: bool((x != y).any()), updated['batch_stats'], variables['batch_stats'])
  stages = {name: any(jax.tree.leaves(found)) for name, found in moved['backbone'].items()}
  assert stages == {name: not name.startswith(('stem', 'stage1')) for name in stages}
