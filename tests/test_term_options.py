"""Every option of every term changes the loss, a gradient or the state: none goes nowhere.

A new term is here by being declared, an option by being in its factory's signature. Another value
is found by the type of the default, or in `OTHER`. Numbers that no option can be are refused.
"""

import functools
import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdseg_jax import distillers, factory_options, tasks
from kdseg_jax.distillers import methods
from kdseg_jax.errors import UserError
from kdseg_jax.training.state import Optimizers, create_state
from kdseg_jax.training.step import make_prepare_step, make_train_step
from tests import toys

WRAPPERS = [name for name, term in methods.TERMS.items() if methods.is_wrapper(term.factory)]
CLASSES, SIZE, STUDENT_SIZE = 4, (5, 6), (3, 4)
# What a term needs, that it can be evaluated at all or within a second.
BASE = {
    'memory': {'pixel_slots': 9, 'region_slots': 7, 'pixel_samples': 8, 'region_samples': 12},
    'channels': {'slots': 9, 'samples': 6, 'pool': 2},
    'review': {'student_taps': ('embedding', 'logits'), 'teacher_taps': ('embedding', 'logits')},
}
# Another value of an option, of one term or of all: where the type of the default gives none.
OTHER = {
    'ignore_label': 1, 'tap': 'aux_logits', 'student_tap': 'other', 'teacher_tap': 'other',
    'taps': ('embedding', 'logits'), 'form': 'cross_entropy', 'reduction': 'sum_over_batch',
    'critic_loss': 'hinge', 'adversarial.critic_loss': 'wasserstein', 'norm': 'clamp',
    'pairwise.pool': 'mean', 'cross_image.pool': 2, 'channels.pool': 3, 'node_size': 2,
    'node_scale': 0.5, 'critic_learning_rate': 0.01, 'critic_b1': 0.5, 'critic_b2': 0.5,
    'critic_steps': 2, 'warmup_steps': 1,
    'neighbourhood': 1, 'eps': 0.5, 'anchors_per_image': 3, 'context.tap': 'other',
    'pixels_per_class': 1, 'channel_wise_features.projection': True,
    'review.form': 'multi_stage', 'levels': (2,),
    'strides': (2, 1, 1), 'channels': 3, 'review.channels': 5,
    'student_taps': ('embedding', 'other'), 'teacher_taps': ('embedding', 'other'),
    'layer': 2, 'teacher_head': 'atss', 'cls_weight': 3.0, 'box_weight': 3.0, 'region': 'inside',
    'pkd.taps': ('p4',), 'pyramid_fitnets.taps': ('p4',),
}
# Options that say something only beside others.
BESIDE = {
    'fitnets.projection': {'student_tap': 'wide'}, 'align_corners': {'resize': True},
    'channel_wise_features.projection': {'student_tap': 'wide'},
    'neighbourhood': {'node_size': 1}, 'pairwise.pool': {'node_size': 2},
    'critic_b1': {'critic_learning_rate': 0.01}, 'critic_b2': {'critic_learning_rate': 0.01},
    'norm': {'eps': 0.5}, 'centerness_weight': {'teacher_head': 'atss'},
}
# Options of several parts of a term: each part must read them, whatever the others do.
ONLY = {'memory': {'pixel': {'region_weight': 0.0}, 'region': {'pixel_weight': 0.0}},
        'channels': {'cross': {'mse_weight': 0.0, 'memory_weight': 0.0},
                     'mse': {'cross_weight': 0.0, 'memory_weight': 0.0},
                     'memory': {'cross_weight': 0.0, 'mse_weight': 0.0}}}
OF_PARTS = [
    *[('memory', option, part) for part in ONLY['memory'] for option in (
        'temperature', 'kd_temperature', 'ignore_label', 'only_filled', 'anchors_per_image',
        'student_tap', 'teacher_tap')],
    *[('channels', option, part) for part in ONLY['channels'] for option in (
        'pool', 'student_tap', 'teacher_tap')],
    *[('channels', 'temperature', part) for part in ('cross', 'memory')]]
CASES = [(term, option) for term in methods.TERMS
         for option in distillers.terms_of(term)[term] if option != 'factory']


def defaults_of(term):
  """Its factory, and its options with the defaults of the term."""
  fields = distillers.terms_of(term)[term]
  return {name: value for name, value in fields.items() if name not in ('weight', 'warmup_steps')}


def lookup(table, term, option, default=None):
  return table.get(f'{term}.{option}', table.get(option, default))


def another(term, option, value):
  """A value unlike the default."""
  found = lookup(OTHER, term, option)
  if found is not None:
    return found
  if isinstance(value, bool):
    return not value
  assert isinstance(value, (int, float)), (
      f'no case for the option {option} of {term}: put another value than {value!r} into OTHER')
  return 2 * value or 1.0


class Taps:
  """A model whose taps are its parameters, or twice these where BatchNorms use the batch."""

  def __init__(self, size, **widths):
    self.shapes = {name: (2, *size, width) for name, width in widths.items()}

  def init(self, rngs, image):
    return {'params': {name: jnp.zeros(shape) for name, shape in self.shapes.items()}}

  def apply(self, variables, image, *, mutable=None, **_):
    taps = dict(variables['params'])
    if mutable is not None:
      taps = jax.tree.map(lambda tap: 2 * tap, taps)
    outputs = taps.get('logits'), taps
    return outputs if mutable is None else (outputs, {})


class Detector(Taps):
  """Likewise, of the taps of a detector with the outputs of a head."""

  def __init__(self, head):
    self.numbers = {'atss': {'reg': 4, 'centerness': 1}}.get(head, {})

  def init(self, rngs, image):
    taps = toys.detector_taps(2, 4, np.random.default_rng(0), self.numbers)
    return {'params': jax.tree.map(jnp.zeros_like, taps)}

  def apply(self, variables, image, layer=None, *, method=None, **rest):
    if method is None:
      return super().apply(variables, image, **rest)
    return toys.detector_head(4, self.numbers)(image, layer)


class DetectorTask:
  """Its loss reads nothing, and assigns what a GFL head's does."""

  def loss(self, taps, batch, *, axis_name):
    targets = toys.detector_targets(toys.detector_masks(2, np.random.default_rng(0)))
    return jnp.float32(0), (targets, {})


class Critic(nn.Module):
  """Has what the real critic has, in one layer."""

  width: float
  input_norm: bool
  axis_name: str | None

  @nn.compact
  def __call__(self, x, train=True):
    steps = self.variable('spectral', 'steps', lambda: jnp.float32(0))
    steps.value += 1
    x = nn.Dense(round(8 * self.width))(x - x.mean() if self.input_norm else x)
    return jnp.tanh(steps.value * x).mean(-1)


@pytest.fixture(scope='module', autouse=True)
def small_critic():
  """Tracing a real critic takes a second, and there are many options."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(importlib.import_module('kdseg_jax.distillers.holistic'), 'Critic', Critic)
    yield


def batch_of():
  rng = np.random.default_rng(0)
  label = rng.integers(0, CLASSES, (2, 10, 12)).astype(np.uint8)
  label[0, :3] = 255
  return {'label': label, 'index': np.array([4, 9], np.int32), 'mask': np.ones((2, 10, 12), bool),
          'image': rng.integers(0, 256, (2, 10, 12, 3)).astype(np.uint8)}


def program(term, items, same_size, memory_only=False):
  """The train step's program, without what neither the loss nor the new state depends on.

  Args:
    term: the term.
    items: its options, as pairs.
    same_size: whether student and teacher have maps of one size.
    memory_only: leaves out as well what the term's memory does not depend on.
  """
  options = {'weight': 0.7} | defaults_of(term) | dict(items)
  return program_of(term, tuple(sorted(options.items())), same_size, memory_only)


@functools.cache  # by all options, those that are not changed too
def program_of(term, options, same_size, memory_only):
  terms = {term: dict(options)}
  if term in WRAPPERS:  # it needs something to wrap
    terms |= distillers.terms_of('fitnets@1')
  widths = {'logits': CLASSES, 'aux_logits': CLASSES, 'embedding': 6, 'other': 6}
  student = Taps(SIZE if same_size else STUDENT_SIZE, **widths, wide=8)
  teacher = Taps(SIZE, **widths | {'embedding': 8, 'other': 10})  # an unused argument is dropped
  batch, optimizers = batch_of(), Optimizers(*[optax.sgd(0.1)] * 2)
  task = tasks.SegmentationTask(CLASSES)
  targets = {}
  if term in toys.OF_DETECTORS:
    task = DetectorTask()
    student, teacher = Detector('gfl'), Detector(terms[term].get('teacher_head'))
    targets = task.loss({}, {}, axis_name=None)[1][0]
  taps = lambda model: jax.eval_shape(lambda: model.init({}, None))['params']
  inputs = distillers.DistillInputs(
      student=taps(student), teacher=taps(teacher), batch=batch, targets=targets,
      rng=jax.random.key(0))
  try:
    method = distillers.create(terms)
    state = jax.eval_shape(
        lambda: create_state(jax.random.key(0), student, method, optimizers, inputs,
                             prepared=toys.unprepared(method, inputs)))
    step = make_train_step(task, student, teacher, method, optimizers)

    def run(*arguments):
      state, metrics = step(*arguments)
      if memory_only:
        return state.distiller.memory
      return state, metrics['loss']  # others tell nothing of what is trained
    variables = jax.eval_shape(lambda: teacher.init({}, None))
    return str(state) + jax.jit(run).lower(variables, state, batch).as_text() + (
        preparation_text(method.prepare, teacher, variables, inputs))
  except ValueError as error:
    return f'refused: {error}'


def preparation_text(preparation, teacher, variables, inputs):
  """The program of a preparation's step; '' if there is none."""
  if preparation is None:
    return ''
  state = jax.eval_shape(lambda: toys.fresh_preparation(preparation, optax.sgd(0.1), inputs))
  step = make_prepare_step(teacher, preparation, optax.sgd(0.1), inputs.student)
  return jax.jit(lambda *given: step(*given)[0]).lower(variables, state, inputs.batch).as_text()


@pytest.mark.parametrize('term,option', CASES)
def test_another_value_of_an_option_changes_the_program(term, option):
  base = BASE.get(term, {}) | lookup(BESIDE, term, option, {})
  default = ({'weight': 0.7, 'warmup_steps': 0} | defaults_of(term) | base)[option]
  if term in WRAPPERS and option == 'weight':
    other = 0.0  # it only switches the wrapper on
  else:
    other = another(term, option, default)
  same_size = option != 'resize' and not base.get('resize')
  programs = [program(term, tuple((base | {option: value}).items()), same_size)
              for value in (default, other)]
  assert not programs[1].startswith('refused'), programs[1]
  assert programs[0] != programs[1], f'{term}.{option}={other!r} changes nothing'


@pytest.mark.parametrize('term,option,part', OF_PARTS)
def test_every_part_of_a_term_reads_the_options_it_shares(term, option, part):
  base = BASE[term] | ONLY[term][part]
  value = another(term, option, (defaults_of(term) | base)[option])
  programs = [program(term, tuple(items.items()), True) for items in (
      base, base | {option: value})]
  assert programs[0] != programs[1], f'{term}.{option}={value!r} changes nothing of {part}'


@pytest.mark.parametrize('term,option,part', [
    ('memory', 'ignore_label', 'pixel'), ('memory', 'ignore_label', 'region'),
    ('memory', 'teacher_tap', 'pixel'), ('memory', 'teacher_tap', 'region'),
    ('memory', 'pixels_per_class', 'pixel'), ('channels', 'teacher_tap', 'memory'),
    ('channels', 'pool', 'memory')])
def test_what_is_remembered_depends_on_the_options_too(term, option, part):
  base = BASE[term] | ONLY[term][part]
  value = another(term, option, (defaults_of(term) | base)[option])
  programs = [program(term, tuple(items.items()), True, memory_only=True) for items in (
      base, base | {option: value})]
  assert programs[0] != programs[1], f'{term}.{option}={value!r} changes nothing'


NUMBERS = [(term, option) for term, option in CASES if option in ('weight', 'warmup_steps') or (
    isinstance(lookup(OTHER, term, option, distillers.terms_of(term)[term][option]), (int, float))
    and not isinstance(distillers.terms_of(term)[term][option], bool))]
# Of which there is at least one.
COUNTS = [('memory', option) for option in (
    'pixel_slots', 'region_slots', 'pixel_samples', 'region_samples', 'pixels_per_class',
    'anchors_per_image')] + [
        ('channels', 'slots'), ('channels', 'samples'), ('channels', 'pool'),
        ('cross_image', 'pool'), ('pairwise', 'node_size'), ('review', 'channels'),
        ('feature_adaptation', 'channels'), ('affinity_adaptation', 'channels')]


def created(term, **options):
  """What `create` makes of a term, with something to wrap."""
  terms = distillers.terms_of('fitnets') if term in WRAPPERS else {}
  return distillers.create(terms | {term: distillers.terms_of(term)[term] | options})


@pytest.mark.parametrize('term,option', NUMBERS)
def test_a_number_that_an_option_cannot_be_is_refused_by_name(term, option):
  values = (-1, float('nan'), float('inf'), -float('inf'), True)
  for value in values[1:] if option == 'ignore_label' else values:
    if value is True and option == 'projection':
      continue
    with pytest.raises(UserError, match=f'config.distill.{term}.{option}={value}: '):
      created(term, **{option: value})


@pytest.mark.parametrize('term,option', COUNTS)
def test_a_count_is_at_least_one(term, option):
  with pytest.raises(UserError, match=f'{term}: {option}=0; expected 1 or more'):
    created(term, **{option: 0})
  created(term, **{option: 1})


@pytest.mark.parametrize('term,option,value', [
    ('memory', 'pixel_weight', float('nan')), ('decoupled', 'alpha', float('nan')),
    ('memory', 'pixels_per_class', -1), ('kd', 'weight', -1.0), ('review', 'levels', (4, -1))])
def test_so_is_one_of_a_run_that_only_checks_them(term, option, value):
  terms = {term: distillers.terms_of(term)[term] | {option: value}}
  with pytest.raises(UserError, match=rf'config.distill.{term}.{option}=.* is n|a finite one'):
    methods.check(terms)


def test_what_is_zero_or_no_class_is_taken():
  for term, option, value in (
      ('memory', 'ignore_label', -1), ('decoupled', 'alpha', 0.0), ('pairwise', 'neighbourhood', 0),
      ('holistic', 'critic_b1', 0.0), ('kd', 'weight', 0), ('crosskd', 'layer', 0),
      ('memory', 'pixel_weight', 0.0), ('channels', 'pool', None)):
    created(term, **{option: value})


def foreign(*, slope: float = 1.0, least: float = -2.0, most: float = float('inf')):
  """A factory from elsewhere."""
  return distillers.stateless(distillers.Requires(), lambda inputs: jnp.float32(slope))


def test_terms_from_elsewhere_may_be_negative_but_not_undefined():
  fields = {'factory': f'{__name__}:foreign', 'weight': -1.0}
  methods.check({'mine': fields | {'slope': -1.0, 'least': -3.0, 'most': float('inf')}})
  for option, value in (('slope', float('inf')), ('least', float('nan')), ('weight', float('nan'))):
    with pytest.raises(UserError, match=f'config.distill.mine.{option}={value}'):
      methods.check({'mine': fields | {option: value}})


def test_of_our_own_what_is_negative_by_default_may_be():
  ours = lambda *, least=-2.0, rate=1.0: None
  ours.__module__ = methods.__name__
  factory_options.check({'least': -3.0}, ours, where='here')
  with pytest.raises(UserError, match='here.rate=-3.0: is negative; expected 0 or more'):
    factory_options.check({'rate': -3.0}, ours, where='here')
