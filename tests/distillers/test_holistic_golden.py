"""The critic and what it and the student minimise against the official code of SKD and CIRKD.

See tests/golden/README.md for the arrays.
"""

import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import lax

from kdseg_jax import distillers, losses
from kdseg_jax.models import critic
from kdseg_jax.models.critic import Critic

PATH = pathlib.Path(__file__).parents[1] / 'golden' / 'holistic.npz'

# Path of a parameter here -> its official name.
SPECTRAL = {f'conv{i}': f'l{i}.0.module' for i in (1, 2, 3, 4)}
NAMES = {
    **{f'{ours}/kernel': f'{theirs}.weight_bar' for ours, theirs in SPECTRAL.items()},
    **{f'{ours}/bias': f'{theirs}.bias' for ours, theirs in SPECTRAL.items()},
    **{f'attention{i}/{ours}/{leaf}': f'attn{i - 2}.{ours}_conv.{theirs}'
       for i in (3, 4) for ours in ('query', 'key', 'value')
       for leaf, theirs in (('kernel', 'weight'), ('bias', 'bias'))},
    'attention3/gamma': 'attn1.gamma', 'attention4/gamma': 'attn2.gamma',
    'last/kernel': 'last.0.weight', 'last/bias': 'last.0.bias',
    'norm/norm/scale': 'preprocess_additional.weight',
    'norm/norm/bias': 'preprocess_additional.bias',
}


@pytest.fixture(scope='module')
def golden():
  with np.load(PATH) as arrays:
    return {name.removeprefix('skd_D/'): value for name, value in arrays.items()}


@pytest.fixture(autouse=True)
def in_float64():
  with jax.enable_x64(True):
    yield


def maps_of(golden, name):
  return jnp.asarray(golden[name].transpose(0, 2, 3, 1), jnp.float64)


def state_of(golden, vectors='w'):
  """The official weights, with the spectral vectors of `w` or `after_fwd`."""
  get = lambda name: golden[f'w/{name}'].astype(np.float64)
  params = {}
  for path, name in NAMES.items():
    value = get(name)
    value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
    params[path] = value[0] if path.endswith('gamma') else value
  statistics = {'mean': get('preprocess_additional.running_mean'),
                'var': get('preprocess_additional.running_var')}
  return distillers.DistillerState(
      critic=unflatten_dict(params, sep='/'),
      memory={'spectral': spectral_of(golden, vectors),
              'batch_stats': {'norm': {'norm': statistics}}})


def spectral_of(golden, vectors):
  """u and v of every layer; v is over (C, kh, kw) there and (kh, kw, C) here."""
  found = {}
  for ours, theirs in SPECTRAL.items():
    u, v = (golden[f'{vectors}/{theirs}.weight_{x}'].astype(np.float64) for x in 'uv')
    found[ours] = {'u': u, 'v': v.reshape(-1, 4, 4).transpose(1, 2, 0).ravel()}
  return found


def assert_close(got, want, relative, message=''):
  """Of large gradients the golden array holds every seventh element."""
  got = np.ravel(got)[::7] if np.size(want) < np.size(got) else np.ravel(got)
  want = np.ravel(want)
  atol = relative * np.abs(want).max() + 1e-7  # some are exactly 0 but for rounding
  np.testing.assert_allclose(got, want, rtol=0, atol=atol, err_msg=message)


def assert_gradients(gradients, golden, prefix, relative):
  gradients = flatten_dict(gradients, sep='/')
  assert gradients.keys() == NAMES.keys()
  missing = []
  for path, name in NAMES.items():
    ours = gradients[path]
    ours = ours.transpose(3, 2, 0, 1) if ours.ndim == 4 else ours
    if f'{prefix}/{name}' not in golden:
      missing.append(path)
      continue
    assert_close(ours, golden[f'{prefix}/{name}'], relative, path)
  assert missing in ([], ['conv3/kernel', 'conv4/kernel'])  # the source leaves these out of one


def use_official_derivative(monkeypatch, golden, scorings):
  """Derivatives of all singular values as autograd of the official code takes them.

  It keeps the tensors u and v, not their values, so that every scoring of a step is differentiated
  with the vectors of the last one. For ours see the finite differences in test_holistic.py.
  """
  last = {}
  for name in SPECTRAL.values():
    matrix = golden[f'w/{name}.weight_bar'].astype(np.float64)
    matrix = matrix.transpose(0, 2, 3, 1).reshape(len(matrix), -1)
    u = golden[f'w/{name}.weight_u'].astype(np.float64)
    for _ in range(scorings):
      v = u @ matrix / np.linalg.norm(u @ matrix)
      u = matrix @ v / np.linalg.norm(matrix @ v)
    last[matrix.shape] = u, v

  def singular_value(matrix, u, v):
    last_u, last_v = last[matrix.shape]
    tangent = last_u @ matrix @ last_v
    return lax.stop_gradient(u @ matrix @ v) + tangent - lax.stop_gradient(tangent)
  monkeypatch.setattr(critic, '_singular_value', singular_value)


def inputs_of(golden):
  return distillers.DistillInputs(
      student={'logits': maps_of(golden, 'S')}, teacher={'logits': maps_of(golden, 'T')},
      batch={'index': jnp.arange(2)}, rng=jax.random.key(0))


def method_of(**options):
  return distillers.holistic(conditional=False, input_norm=True, width=1 / 8, **options)


def test_adversary_of_the_student(golden):
  method, state, inputs = method_of(), state_of(golden), inputs_of(golden)

  def loss(logits):
    taps = {'logits': logits}
    return method.loss(state, distillers.DistillInputs(taps, {}, inputs.batch))
  (value, (memory, _)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(
      inputs.student['logits'])
  np.testing.assert_allclose(value, golden['fwd_train/gloss_f64'], rtol=1e-9)
  assert_close(gradient.transpose(0, 3, 1, 2), golden['fwd_train/g_S'], 1e-6)
  for (path, ours), theirs in zip(
      jax.tree.leaves_with_path(memory['spectral']),
      jax.tree.leaves(spectral_of(golden, 'after_fwd')), strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-6, err_msg=str(path))


def test_scores(golden):
  """In evaluation the official code advances its vectors first; ours are given the advanced."""
  state = state_of(golden, 'after_fwd')

  @jax.jit
  @jax.value_and_grad
  def loss(x):
    model = Critic(1 / 8, input_norm=True)
    return -jnp.mean(model.apply({'params': state.critic, **state.memory}, x))
  value, gradient = loss(maps_of(golden, 'S'))
  np.testing.assert_allclose(value, golden['fwd_eval/gloss_f64'], rtol=1e-6)
  assert_close(gradient.transpose(0, 3, 1, 2), golden['fwd_eval/g_S'], 1e-6)


@pytest.mark.slow
def test_wasserstein_critic_with_penalty(golden, monkeypatch):
  module = importlib.import_module('kdseg_jax.distillers.holistic')
  monkeypatch.setattr(module, '_draw_alpha', lambda rng, index: jnp.ravel(golden['alpha']))
  method, state, inputs = method_of(), state_of(golden), inputs_of(golden)

  use_official_derivative(monkeypatch, golden, scorings=3)

  def loss(params):
    return method.critic.loss(state._replace(critic=params), inputs)
  (value, (_, metrics)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(state.critic)
  np.testing.assert_allclose(metrics['score_gap'], -golden['wgan/adv_f64'], rtol=1e-7)
  np.testing.assert_allclose(10 * metrics['gradient_penalty'], golden['wgan/gp_f64'], rtol=1e-7)
  np.testing.assert_allclose(value, golden['wgan/total_f64'], rtol=1e-7)
  assert_gradients(gradients, golden, 'wgan/gw', 1e-6)


def test_hinge_critic_in_the_order_of_cirkd(golden, monkeypatch):
  """The student's maps are scored first, so that the vectors of the two scorings are exchanged."""
  use_official_derivative(monkeypatch, golden, scorings=2)
  state = state_of(golden)

  @jax.jit
  @jax.value_and_grad
  def loss(params):
    model, memory, scores = Critic(1 / 8, input_norm=True), state.memory, {}
    for name in ('S', 'T'):
      scores[name], memory = model.apply(
          {'params': params, **memory}, maps_of(golden, name), train=True, mutable=list(memory))
    return losses.hinge_critic(scores['T'], scores['S'])
  value, gradients = loss(state.critic)
  np.testing.assert_allclose(value, golden['hinge/adv_f64'], rtol=1e-7)
  assert_gradients(gradients, golden, 'hinge/gw', 1e-5)
