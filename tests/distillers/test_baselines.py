"""The baselines' distillers: what they read, their projections, one device against eight."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from configs import camvid, quickstart
from kdseg_jax import distillers, losses, parallel, resizing
from kdseg_jax.distillers import methods

BASELINES = ('kd', 'fitnets', 'attention_transfer', 'channel_wise', 'intra_class_variation',
             'double_similarity', 'decoupled')
AXIS = parallel.AXIS


def taps(rng, n, width, size=(6, 7)):
  return {name: rng.normal(size=(n, *size, channels)).astype(np.float32)
          for name, channels in (('embedding', width), ('logits', 5), ('aux_logits', 5))}


def inputs_of(n=2, student_width=4, teacher_width=8):
  rng = np.random.default_rng(0)
  label = rng.integers(0, 5, (n, 12, 14)).astype(np.uint8)
  # Very unequal numbers of valid pixels an image, hence a device; the first has none.
  label[rng.random(label.shape) >= np.arange(n)[:, None, None] / n] = 255
  return distillers.DistillInputs(
      student=taps(rng, n, student_width), teacher=taps(rng, n, teacher_width),
      batch={'label': label, 'index': np.arange(n, dtype=np.int32)}, rng=jax.random.key(1),
      step=0)


def value_of(distiller, inputs):
  return jax.jit(lambda inputs: distiller.loss(
      distiller.init(jax.random.key(0), inputs), inputs)[0])(inputs)


def with_size(inputs, size):
  rng = np.random.default_rng(1)
  width = inputs.student['embedding'].shape[-1]
  return dataclasses.replace(inputs, student=taps(rng, 2, width, size))


def test_weights_are_those_of_the_papers_and_scripts():
  assert {method: methods.METHODS[method] for method in BASELINES} == {
      'kd': {'kd': 1},
      'fitnets': {'fitnets': 10},
      'attention_transfer': {'attention_transfer': 10_000},
      'channel_wise': {'kd': 1, 'channel_wise_features': 50, 'channel_wise_logits': 3},
      'intra_class_variation': {'intra_class_variation': 20},
      'double_similarity': {'double_similarity_pixel': 1000, 'double_similarity_category': 10},
      'decoupled': {'decoupled': 1},
  }


def test_every_term_is_its_loss_on_the_taps_it_names():
  inputs = inputs_of()
  student, teacher, label = inputs.student, inputs.teacher, inputs.batch['label']
  distiller = distillers.create(distillers.terms_of('+'.join(BASELINES)))
  state = jax.jit(distiller.init)(jax.random.key(0), inputs)
  _, (_, metrics) = jax.jit(distiller.loss)(state, inputs)
  layers = lambda taps: [taps['aux_logits'], taps['embedding'], taps['logits']]
  project = lambda term: student['embedding'] @ state.params[term]['projection']['kernel'][0, 0]

  @jax.jit
  def expected():
    logits = student['logits'], teacher['logits']
    return {
        'kd': losses.pixelwise_kl(*logits),
        'fitnets': losses.fitnets(project('fitnets'), teacher['embedding']),
        'attention_transfer': losses.attention_transfer(
            student['embedding'], teacher['embedding']),
        'channel_wise_features': losses.channel_wise(
            project('channel_wise_features'), teacher['embedding']),
        'channel_wise_logits': losses.channel_wise(*logits),
        'intra_class_variation': losses.intra_class_variation(
            student['embedding'], teacher['embedding'], label, num_classes=5),
        'double_similarity_pixel': losses.double_similarity_pixel(
            layers(student), layers(teacher)),
        'double_similarity_category': losses.double_similarity_category(*logits),
        'decoupled': losses.decoupled_kd(*logits, label[:, ::2, ::2]),
    }
  values = expected()
  assert {name for name in metrics if name.endswith('/raw')} == {f'{n}/raw' for n in values}
  for name, value in values.items():
    np.testing.assert_allclose(metrics[f'{name}/raw'], value, rtol=1e-5, err_msg=name)


@pytest.mark.parametrize('method', BASELINES)
def test_every_method_of_a_recipe_has_finite_gradients(method):
  inputs = inputs_of()
  config = quickstart.get_config(f'method={method}')
  distiller = distillers.create(config.distill.to_dict())
  state = distiller.init(jax.random.key(0), inputs)

  @jax.jit
  @jax.grad
  def gradient(trained):
    return distiller.loss(state._replace(params=trained['params']),
                          dataclasses.replace(inputs, student=trained['student']))[0]
  gradients = gradient({'params': state.params, 'student': inputs.student})
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(gradients))
  read = set(distiller.requires.student)
  if method == 'intra_class_variation':
    read -= {'logits'}  # which only say how many classes there are
  moved = {name for name, x in gradients['student'].items() if np.any(x != 0)}
  assert all(np.any(x != 0) for x in jax.tree.leaves(gradients['params']))
  # One of them reads the logits for the number of classes alone.
  assert moved == read - ({'logits'} if method == 'intra_class_variation' else set())


@pytest.mark.parametrize('factory', [distillers.fitnets, distillers.channel_wise_features])
def test_a_projection_is_a_convolution_without_bias_that_learns(factory):
  inputs, distiller = inputs_of(), factory()
  state = distiller.init(jax.random.key(0), jax.eval_shape(lambda: inputs))
  [kernel] = jax.tree.leaves(state.params)
  assert kernel.shape == (1, 1, 4, 8) and kernel.dtype == jnp.float32
  assert 0.1 < np.abs(kernel).max() <= 0.5  # uniform up to 1 / sqrt(4)
  gradient = jax.jit(jax.grad(
      lambda params: distiller.loss(state._replace(params=params), inputs)[0]))(state.params)
  assert all(np.any(x != 0) for x in jax.tree.leaves(gradient))


def test_where_widths_are_equal_a_projection_can_be_left_out():
  wide = inputs_of(student_width=8)
  has_params = lambda distiller, inputs: bool(jax.tree.leaves(
      jax.eval_shape(distiller.init, jax.random.key(0), inputs).params))
  assert not has_params(distillers.fitnets(projection=False), wide)
  assert has_params(distillers.fitnets(), wide)
  assert not has_params(distillers.channel_wise_features(), wide)
  assert has_params(distillers.channel_wise_features(projection=True), wide)
  np.testing.assert_allclose(
      value_of(distillers.fitnets(projection=False), wide),
      jax.jit(losses.fitnets)(wide.student['embedding'], wide.teacher['embedding']), rtol=1e-6)
  for factory in (distillers.fitnets, distillers.channel_wise_features):
    with pytest.raises(ValueError, match='4 wide.*8, which projection=False.*projection=True'):
      factory(projection=False).init(jax.random.key(0), inputs_of())


def test_official_channel_count_is_the_width_before_the_projection():
  ours, official = (
      value_of(distillers.channel_wise_features(official_channel_count=flag), inputs_of())
      for flag in (False, True))
  np.testing.assert_allclose(official, 2 * ours, rtol=1e-6)  # 4 wide, projected to 8


def test_kd_and_fitnets_of_knowledge_adaptation_resize_the_student():
  small = with_size(inputs_of(student_width=8), (3, 4))
  up = lambda name: losses.resize_bilinear(small.student[name], (6, 7), align_corners=True)
  kd, fitnets = jax.jit(lambda: (
      losses.pixelwise_kl(up('logits'), small.teacher['logits'], temperature=2.0),
      losses.fitnets(up('embedding'), small.teacher['embedding'])))()
  np.testing.assert_allclose(
      value_of(distillers.kd(temperature=2.0, resize=True), small), kd, rtol=1e-6)
  np.testing.assert_allclose(
      value_of(distillers.fitnets(projection=False, resize=True), small), fitnets, rtol=1e-6)
  for distiller in (distillers.kd(), distillers.fitnets()):
    with pytest.raises(ValueError, match=r'resize=True'):
      value_of(distiller, small)


def test_decoupled_takes_the_nearest_label_of_each_logit():
  inputs = with_size(inputs_of(), (5, 5))
  inputs = dataclasses.replace(inputs, teacher=inputs.student)
  labels = resizing.resize_nearest(inputs.batch['label'], (5, 5))
  np.testing.assert_array_equal(
      labels, inputs.batch['label'][:, [0, 2, 4, 7, 9]][:, :, [0, 2, 5, 8, 11]])
  np.testing.assert_allclose(value_of(distillers.decoupled(), inputs), 0, atol=1e-6)


def test_decoupled_of_images_takes_255_as_a_class_and_leaves_out_those_without_one():
  logits = np.random.default_rng(0).normal(size=(2, 4, 300)).astype(np.float32)
  labels = np.array([255, 7, -1, 299], np.int32)
  inputs = distillers.DistillInputs(
      {'logits': logits[0]}, {'logits': logits[1]}, {'label': labels}, step=0)
  known = labels >= 0
  expected = jax.jit(functools.partial(losses.decoupled_kd, ignore_label=-1))(
      *logits[:, known], labels[known])
  np.testing.assert_allclose(value_of(distillers.decoupled(), inputs), expected, rtol=1e-5)


def test_without_auxiliary_head_double_similarity_compares_two_taps():
  inputs = inputs_of()
  without = dataclasses.replace(
      inputs, student={k: v for k, v in inputs.student.items() if k != 'aux_logits'})
  distiller = distillers.double_similarity()
  with pytest.raises(ValueError, match="student has no tap 'aux_logits'"):
    distillers.check_requires(distiller.requires, without)
  two = distillers.double_similarity_pixel(taps=['embedding', 'logits'])
  distillers.check_requires(two.requires, without)
  layers = lambda taps: [taps['embedding'], taps['logits']]
  np.testing.assert_allclose(value_of(two, without), jax.jit(losses.double_similarity_pixel)(
      layers(inputs.student), layers(inputs.teacher)), rtol=1e-5)
  for recipe in (quickstart, camvid):
    config = recipe.get_config('method=double_similarity')
    assert not config.student.aux
    assert config.distill.double_similarity_pixel.taps == ('embedding', 'logits')


@pytest.mark.parametrize('factory, method', [
    (distillers.channel_wise, 'channel_wise'),
    (distillers.double_similarity, 'double_similarity')])
def test_composite_factories_are_their_methods(factory, method):
  inputs = inputs_of()
  distiller = factory()
  _, (_, metrics) = jax.jit(distiller.loss)(distiller.init(jax.random.key(0), inputs), inputs)
  for term, weight in methods.METHODS[method].items():
    np.testing.assert_allclose(
        metrics[f'{term}/weighted'], weight * metrics[f'{term}/raw'], rtol=1e-6)


def test_all_baselines_on_eight_devices_equal_one():
  inputs = inputs_of(n=8)
  terms = distillers.terms_of('+'.join(BASELINES))
  params = jax.jit(distillers.create(terms).init)(jax.random.key(0), inputs).params
  trained = {'scale': jnp.float32(1.5), 'params': params}
  batch = {'student': inputs.student, 'teacher': inputs.teacher, 'label': inputs.batch['label']}

  def step_of(axis_name):
    distiller = distillers.create(terms, axis_name=axis_name)

    def step(trained, batch):
      def loss(trained):
        student = {name: trained['scale'] * x for name, x in batch['student'].items()}
        state = distiller.init(jax.random.key(0), inputs)._replace(params=trained['params'])
        value, (_, metrics) = distiller.loss(state, dataclasses.replace(
            inputs, student=student, teacher=batch['teacher'], batch=batch))
        return value, metrics
      (_, metrics), gradients = parallel.value_and_grad(loss, axis_name=axis_name)(trained)
      return metrics, gradients
    return step

  one = jax.jit(step_of(None))(trained, batch)
  eight = jax.jit(jax.shard_map(
      lambda *arguments: jax.lax.pmean(step_of(AXIS)(*arguments), AXIS),
      mesh=parallel.create_mesh(), in_specs=(P(), P(AXIS)), out_specs=P()))(trained, batch)
  for got, expected in zip(*map(jax.tree.leaves, (eight, one)), strict=True):
    np.testing.assert_allclose(
        got, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
