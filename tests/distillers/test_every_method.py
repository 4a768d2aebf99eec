"""Every term and every method of the registry, asked the same questions.

A new term or method is asked them by being registered.
"""

import dataclasses
import functools
import zlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from kdseg_jax import distillers, parallel
from kdseg_jax.checkpoint import Checkpointer
from kdseg_jax.distillers import core, methods
from kdseg_jax.training.state import Optimizers, create_state
from tests import toys

IMAGES, SIDE, CLASSES = 8, 6, 4
# Not narrower: half of 3 is one channel, and a BatchNorm after a kernel of one channel leaves it a
# gradient of rounding alone.
STUDENT_WIDTH, TEACHER_WIDTH = 4, 8
# Sizes that are large by default; whatever term has the option gets it.
SMALL = {'width': 1 / 16, 'pixel_slots': 12, 'region_slots': 9, 'pixel_samples': 12,
         'region_samples': 9, 'slots': 20, 'samples': 7, 'student_taps': ('stage3', 'stage4'),
         'teacher_taps': ('stage3_preactivation', 'stage4_preactivation'), 'layer': 2}
OPTIMIZERS = Optimizers(*[optax.sgd(0.1, momentum=0.9)] * 2)
# Float32 and another order of the same sums; what a lost collective changes is percents.
TOLERANCE = 1e-4

WRAPPERS = [name for name, term in methods.TERMS.items() if methods.is_wrapper(term.factory)]


def small(method):
  """The terms of a method, in small."""
  return {term: options | {name: SMALL[name] for name in options if name in SMALL}
          for term, options in distillers.terms_of(method).items()}


def subjects():
  """name -> terms, of every term with weight 1 and of every method of several terms."""
  found = {}
  for term in methods.TERMS:
    # What wraps needs something to wrap.
    found[term] = small(f'cross_image+{term}' if term in WRAPPERS else f'{term}@1')
  for method, terms in methods.METHODS.items():
    if method not in methods.TERMS:
      assert len(terms) != 1
      found[f'method={method}'] = small(method)
  return found


SUBJECTS = subjects()
METHODS = [name for name in SUBJECTS if name.startswith('method=')]
# To compile is what takes the time, and a method is a sum of terms: a quick run asks the terms.
SLOW_METHODS = [pytest.param(name, marks=pytest.mark.slow) for name in METHODS]


def batch_of(seed=0):
  """Taps of both models and what the loader gives; the first image has no label, the last all."""
  rng = np.random.default_rng(seed)
  taps = lambda width: {
      name: rng.normal(size=(IMAGES, SIDE, SIDE, channels)).astype(np.float32)
      for name, channels in (
          ('embedding', width), ('logits', CLASSES), ('aux_logits', CLASSES), ('stage3', width),
          ('stage4', width), ('stage3_preactivation', width), ('stage4_preactivation', width))}
  label = rng.integers(0, CLASSES, (IMAGES, 2 * SIDE, 2 * SIDE)).astype(np.uint8)
  share = np.arange(IMAGES)[:, None, None] / (IMAGES - 1)
  label[rng.random(label.shape) >= share] = 255
  mask = rng.random(label.shape) < 0.2 + 0.8 * share
  of_detector = np.random.default_rng(seed + 100)
  # As wide in both models: so are the channels that `pkd` compares.
  detector = lambda: toys.detector_taps(IMAGES, TEACHER_WIDTH, of_detector)
  return {'student': taps(STUDENT_WIDTH) | detector(), 'teacher': taps(TEACHER_WIDTH) | detector(),
          'label': label, 'targets': toys.detector_masks(IMAGES, of_detector), 'mask': mask,
          'image': rng.integers(0, 256, (*label.shape, 3)).astype(np.uint8),
          'index': np.arange(IMAGES, dtype=np.int32) + IMAGES * seed}


def inputs_of(distiller, batch, rng, step):
  """Only the taps that the method says it reads."""
  taps = {owner: {name: batch[owner][name] for name in getattr(distiller.requires, owner)}
          for owner in ('student', 'teacher')}
  rest = {name: value for name, value in batch.items() if name not in (*taps, 'targets')}
  head = toys.detector_head(TEACHER_WIDTH) if distiller.requires.teacher_head else None
  return distillers.DistillInputs(
      **taps, batch=rest, rng=rng, step=step, teacher_head=head,
      targets=toys.detector_targets(batch['targets']))


def objectives_of(distiller, axis_name=None, *, gradients=True):
  """`({}, (state, key, step), batch) -> (memory, results)`, per device: losses and gradients.

  The student's taps are `scale * tap + shift`, with parameters as a model has them: what reaches
  every pixel of every image adds up in their gradients.
  """
  def descend(function, params):
    if not gradients:
      return function(params), None
    return parallel.value_and_grad(function, axis_name=axis_name)(params)

  def step(_, state, batch):
    state, rng, number = state
    inputs = inputs_of(distiller, batch, rng, number)
    # What standardises its taps would not feel a shift, and a scale as little.
    bent = bool(distiller.requires.targets) or 'p3' in inputs.student

    def loss(trained):
      move = lambda tap, by: (by[0] * tap + by[1] * (tap**2 if bent else 1)).astype(tap.dtype)
      student = jax.tree.map(move, inputs.student, trained['taps'])
      return distiller.loss(state._replace(params=trained['params']),
                            dataclasses.replace(inputs, student=student))

    def critic_loss(critic):
      return distiller.critic.loss(state._replace(critic=critic, memory=memory), inputs)

    as_they_are = lambda tap: jnp.stack([jnp.ones(tap.shape[-1]), jnp.zeros(tap.shape[-1])])
    trained = {'params': state.params, 'taps': jax.tree.map(as_they_are, inputs.student)}
    results = {'critic': None, 'critic_metrics': {}, 'critic_gradients': None}
    (results['loss'], (memory, results['metrics'])), results['gradients'] = descend(loss, trained)
    if distiller.critic is not None:
      (results['critic'], (memory, results['critic_metrics'])), results['critic_gradients'] = (
          descend(critic_loss, state.critic))
    if axis_name is not None:
      for name in ('metrics', 'critic_metrics'):
        results[name] = jax.lax.pmean(results[name], axis_name)
    return memory, results
  return step


class Subject:
  """A method with its compiled program and the states of two seeds."""

  def __init__(self, terms):
    self.terms, self.distiller = terms, distillers.create(terms)
    step = objectives_of(self.distiller)
    # chex counts by it, and the cache of compiled programs has it as the name of a file.
    step.__name__ = f'step_{zlib.crc32(repr(terms).encode())}'
    self.run = jax.jit(chex.assert_max_traces(step, 1))
    shapes = jax.eval_shape(
        lambda: inputs_of(self.distiller, batch_of(), jax.random.key(0), jnp.int32(0)))
    create = jax.jit(lambda rng: create_state(
        rng, toys.Model(), self.distiller, OPTIMIZERS, shapes,
        prepared=toys.unprepared(self.distiller, shapes)))
    self.train_states = [create(jax.random.key(seed)) for seed in (0, 1)]

  def state(self, seed=0, step=0):
    """What the program takes: state, key and number of the step."""
    train_state = self.train_states[seed]
    return train_state.distiller, jax.random.fold_in(train_state.rng, step), jnp.int32(step)

  @functools.cached_property
  def results(self):
    """Of the first seed's first step."""
    return jax.device_get(self.run({}, self.state(), batch_of()))


_made = {}


def subject_of(terms):
  """The subject of these terms; each is made once."""
  if repr(terms) not in _made:
    _made[repr(terms)] = Subject(terms)
  return _made[repr(terms)]


TERMS = [name for name in SUBJECTS if name not in METHODS]


@pytest.fixture(params=TERMS + SLOW_METHODS)
def subject(request):
  return subject_of(SUBJECTS[request.param])


def assert_close(got, want):
  """Each array to a share of its largest element."""
  for (path, x), y in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
    atol = TOLERANCE * max(np.abs(y).max(initial=0), 1e-3)
    np.testing.assert_allclose(x, y, rtol=0, atol=atol, err_msg=jax.tree_util.keystr(path))


def assert_equal(got, want):
  jax.tree.map(np.testing.assert_array_equal, *jax.device_get((got, want)))


def assert_finite(results):
  for path, value in jax.tree.leaves_with_path(results):
    assert np.all(np.isfinite(value)), jax.tree_util.keystr(path)


def differs(a, b):
  return any(not np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def test_losses_are_float32_scalars_whose_gradients_reach_what_is_trained(subject):
  memory, results = subject.results
  assert results['loss'].dtype == np.float32 and results['loss'].shape == ()
  assert_finite(results)
  state = subject.state()[0]
  assert jax.tree.map(jnp.shape, memory) == jax.tree.map(jnp.shape, state.memory)
  assert jax.tree.map(lambda x: x.dtype, memory) == jax.tree.map(lambda x: x.dtype, state.memory)
  moved = {name for name, x in results['gradients']['taps'].items()
           if any(map(np.any, jax.tree.leaves(x)))}
  # Some read the logits for the number of classes, or the confidence, alone.
  scores = {'logits', 'cls'}
  assert moved | scores == {*subject.distiller.requires.student} | scores
  assert bool(moved) == (results['loss'] != 0) == bool(subject.terms)
  assert all(np.any(x) for x in jax.tree.leaves(results['gradients']['params']))


def test_all_that_is_random_at_the_start_is_of_its_seed_and_of_its_place(subject):
  starts = [state.distiller._replace(prepared={}) for state in subject.train_states]
  drawn = [zlib.crc32(np.asarray(x)) for x in jax.tree.leaves((starts, [
      state.params for state in subject.train_states])) if np.ptp(x)]
  assert len(set(drawn)) == len(drawn) >= 2


def test_steps_are_compiled_once(subject):
  for step in range(2):
    state, rng, number = subject.state(step=step)
    memory, _ = subject.run({}, (state, rng, number), batch_of(step))
    subject.run({}, (state._replace(memory=memory), rng, number), batch_of(step))


@pytest.mark.slow
@pytest.mark.parametrize('name', TERMS)
def test_values_are_the_same_without_compilation(name):
  subject = subject_of(SUBJECTS[name])
  memory, results = objectives_of(subject.distiller, gradients=False)(
      {}, subject.state(), batch_of())
  compiled_memory, compiled = subject.results
  values = lambda results: {name: results[name] for name in results if 'gradients' not in name}
  assert_close((memory, values(results)), (compiled_memory, values(compiled)))


def test_the_key_decides_and_nothing_else(subject):
  again = jax.device_get(subject.run({}, subject.state(), batch_of()))
  assert_equal(again, subject.results)
  state, _, number = subject.state()
  other = subject.run({}, (state, jax.random.key(99), number), batch_of())
  draws = 'random_bits' in str(subject.run.trace({}, subject.state(), batch_of()).jaxpr)
  assert differs(other, subject.results) == draws


@pytest.mark.parametrize('kind', ['zero', 'equal', 'huge', 'no_labels'])
def test_losses_and_gradients_are_finite(subject, kind):
  batch = batch_of()
  if kind == 'no_labels':
    batch['label'][:] = 255
    for mask in batch['targets'].values():
      mask[:] = False
  for student, teacher in zip(*map(jax.tree.leaves, (batch['student'], batch['teacher']))):
    if kind == 'zero':
      student[:], teacher[:] = 0, 0
    elif kind == 'equal':  # in length and direction, also where the teacher's is wider
      teacher[:] = 0
      teacher[..., :student.shape[-1]] = student
    elif kind == 'huge':
      student *= 1e6
      teacher *= 1e6
  assert_finite(subject.run({}, subject.state(), batch))


@pytest.mark.parametrize('name', [name for name in TERMS if any(
    'ignore_label' in options for options in SUBJECTS[name].values())])
def test_what_the_teacher_says_of_ignored_pixels_does_not_matter(name):
  subject, results = subject_of(SUBJECTS[name]), []
  for image in (0, -1):
    batch = batch_of()
    assert (batch['label'][image] == 255).all() == (image == 0)
    for tap in jax.tree.leaves(batch['teacher']):
      tap[image] = 1 - np.roll(tap[image], 1, axis=0)
    results.append(jax.device_get(subject.run({}, subject.state(), batch)))
  assert_close(results[0], subject.results)
  assert differs(results[1], subject.results)


def traced(name, axis_name=None):
  """`(function, shapes of its arguments)`: all objectives of a term, the preparation's too."""
  distiller = distillers.create(SUBJECTS[name], axis_name=axis_name)
  objectives = objectives_of(distiller, axis_name, gradients=False)
  prepare = distiller.prepare

  def run(state, prepared, batch):
    inputs = inputs_of(distiller, batch, *state[1:])
    return objectives({}, state, batch), None if prepare is None else prepare.loss(prepared, inputs)

  def states():
    key, step = jax.random.key(0), jnp.int32(0)
    inputs = inputs_of(distiller, batch_of(), key, step)
    first = core.create_state(distiller, key, inputs, toys.unprepared(distiller, inputs))
    return (first, key, step), None if prepare is None else prepare.init(key, inputs)
  return run, (*jax.eval_shape(states), batch_of())


@pytest.mark.parametrize('name', TERMS)
def test_losses_and_memory_are_the_same_on_every_device(name):
  """Traced alone: the map refuses a result that a lost collective leaves to one device."""
  run, arguments = traced(name, parallel.AXIS)
  mapped = jax.shard_map(run, mesh=parallel.create_mesh(),
                         in_specs=(P(), P(), P(parallel.AXIS)), out_specs=P())
  (_, results), _ = jax.eval_shape(mapped, *arguments)
  assert results['loss'].shape == ()


@pytest.mark.parametrize('name', TERMS)
def test_no_two_draws_of_a_loss_share_a_key(name, monkeypatch):
  _, (state, _, batch) = traced(name)
  folded, fold = [], core.fold_in_name
  monkeypatch.setattr(core, 'fold_in_name', lambda key, part: (
      folded.append((key, part)), fold(key, part))[1])
  distiller = distillers.create(SUBJECTS[name])
  jax.eval_shape(lambda state, batch: distiller.loss(
      state[0], inputs_of(distiller, batch, *state[1:])), state, batch)
  parts = [(id(key), part) for key, part in folded]
  assert len(set(parts)) == len(parts), [part for _, part in parts]


@pytest.mark.slow
def test_two_seeds_at_once_on_eight_devices_are_each_alone_on_one(subject):
  """`jax.vmap` inside the map over devices, as studies have it, with unlike label counts."""
  distiller = distillers.create(subject.terms, axis_name=parallel.AXIS)
  mesh = parallel.create_mesh()
  program = parallel.data_parallel(
      jax.vmap(objectives_of(distiller, parallel.AXIS), (None, 0, None)), mesh)
  states = jax.tree.map(lambda *x: jnp.stack(x), *(subject.state(seed) for seed in (0, 1)))
  together = jax.device_get(program({}, parallel.replicate(states, mesh), batch_of()))
  for seed in (0, 1):
    memory, results = subject.run({}, subject.state(seed), batch_of())
    one_of = functools.partial(jax.tree.map, lambda x, seed=seed: x[seed])
    assert_close(one_of(together), (memory, results))


def test_bfloat16_taps_are_computed_on_in_float32(subject):
  """All but the gradients of the taps themselves is what the same numbers in float32 give."""
  half, same = batch_of(), batch_of()
  for owner in ('student', 'teacher'):
    half[owner] = jax.tree.map(lambda tap: tap.astype(jnp.bfloat16), half[owner])
    same[owner] = jax.tree.map(lambda tap: np.asarray(tap, np.float32), half[owner])
  run = jax.jit(objectives_of(subject.distiller))
  memory, results = jax.device_get(run({}, subject.state(), half))
  wanted_memory, wanted = jax.device_get(subject.run({}, subject.state(), same))
  of_taps, of_same_taps = (x['gradients'].pop('taps') for x in (results, wanted))
  assert_finite(of_taps)
  types = lambda tree: jax.tree.map(lambda x: x.dtype, tree)
  assert types((memory, results, of_taps)) == types((wanted_memory, wanted, of_same_taps))
  assert_close((memory, results), (wanted_memory, wanted))


def test_a_state_comes_back_from_a_checkpoint_bit_for_bit(subject, tmp_path):
  memory, _ = subject.results
  state = subject.train_states[0]
  state = state._replace(distiller=state.distiller._replace(memory=memory))
  checkpointer = Checkpointer(tmp_path, metric='mean_iou')
  checkpointer.save(1, state, {})
  checkpointer.close()
  checkpointer = Checkpointer(tmp_path)
  restored = checkpointer.restore(1, subject.train_states[1])
  checkpointer.close()
  bits = lambda state: state._replace(rng=jax.random.key_data(state.rng))
  assert_equal(bits(restored), bits(state))


@pytest.mark.parametrize('name', SLOW_METHODS)
def test_a_method_is_the_weighted_sum_of_its_terms(name):
  """With the draws, the memory and the critics that each term has alone."""
  terms = SUBJECTS[name]
  wrappers = {term: options for term, options in terms.items() if term in WRAPPERS}
  memory, results = subject_of(terms).results
  loss, taps = 0.0, {}
  for term, options in terms.items():
    if term in WRAPPERS:
      continue
    alone = subject_of({term: options | {'weight': 1.0}} | wrappers)
    term_memory, found = alone.results
    loss += options['weight'] * found['loss']
    for tap, gradient in found['gradients']['taps'].items():
      taps[tap] = taps.get(tap, 0) + options['weight'] * gradient
    if not wrappers:
      assert_close(memory[term], term_memory[term])
    if found['critic_gradients']:
      assert_close(results['critic_gradients'][term], found['critic_gradients'][term])
  np.testing.assert_allclose(results['loss'], loss, rtol=1e-5)
  assert_close(results['gradients']['taps'], taps)


def test_missing_taps_are_refused_by_name(subject):
  distiller = subject.distiller
  inputs = inputs_of(distiller, batch_of(), jax.random.key(0), 0)
  distillers.check_requires(distiller.requires, inputs)
  for owner in ('student', 'teacher'):
    for name in getattr(distiller.requires, owner):
      taps = {key: tap for key, tap in getattr(inputs, owner).items() if key != name}
      with pytest.raises(ValueError, match=f"{owner} has no tap '{name}'"):
        distillers.check_requires(distiller.requires,
                                  dataclasses.replace(inputs, **{owner: taps}))
