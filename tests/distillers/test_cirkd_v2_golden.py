"""The second version of CIRKD against its official code; see tests/golden/README.md."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import distillers, losses
from kdseg_jax.distillers.cirkd_channels import ContextBlock
from kdseg_jax.losses import pooling, queues
from kdseg_jax.models.conv import Conv
from kdseg_jax.models.layers import ConvNorm

PATH = pathlib.Path(__file__).parents[1] / 'golden' / 'cirkd_v2.npz'
WIDTH, SLOTS, SAMPLES, PUSHED = 18, 90, 24, 36
WEIGHTS = {'minibatch': 'cross_weight', 'mse': 'mse_weight', 'memory': 'memory_weight'}


@pytest.fixture(scope='module')
def golden():
  with np.load(PATH) as arrays:
    return dict(arrays)


def last(x):
  return np.moveaxis(x, 1, -1)


def kernel(x):
  return {'kernel': np.transpose(x, (2, 3, 1, 0))}  # OIHW to HWIO


def conv_norm(golden, layer):
  """An official pair of a 1x1 convolution (0) and a BatchNorm (1), as `ConvNorm` names it."""
  return {'conv': kernel(golden[f'{layer}.0.weight']),
          'norm': {'norm': {'scale': golden[f'{layer}.1.weight'],
                            'bias': golden[f'{layer}.1.bias']}}}


def statistics(golden, layer):
  return {'norm': {'norm': {'mean': golden[f'{layer}.1.running_mean'],
                            'var': golden[f'{layer}.1.running_var']}}}


def head_of(golden, prefix):
  layer = f'{prefix}/project_head'
  return {'hidden': conv_norm(golden, layer), 'projection': kernel(golden[f'{layer}.3.weight'])}


def assert_close(got, want, message=''):
  np.testing.assert_allclose(
      got, want, rtol=0, atol=1e-5 * np.abs(want).max(), err_msg=message)


def channels_of(golden, step):
  """State before an official call, inputs and what was pushed and compared with in it."""
  before = golden['channels/queue0' if step == 0 else f'channels/train/step{step - 1}/queue']
  pointer = jnp.full(1, PUSHED * step)
  state = distillers.DistillerState(params=head_of(golden, 'channels/w'), memory={
      'batch_stats': {'hidden': statistics(golden, 'channels/w/project_head')},
      'queue': queues.Queue(before[None], pointer, pointer)})
  student, teacher = (
      {'embedding': last(golden[f'channels/in/feat_{x}{step}'])} for x in 'st')
  return state, distillers.DistillInputs(student, teacher, rng=jax.random.key(0))


def give_draws(monkeypatch, golden, call, queue=None):
  """The official order of pushing and slots to compare with, of our queue or of a given one."""
  order, slots = golden[f'{call}/push_order'], golden[f'{call}/slots']

  def push_drawn(queue, rows, rng, count, *, axis_name):
    assert count >= len(order)
    return push(queue, rows.reshape(-1, rows.shape[-1])[order])

  def sample(ours, rng, per_class):
    assert per_class == SAMPLES
    return (ours.embeddings[0] if queue is None else queue)[slots], jnp.ones(SAMPLES, bool)
  monkeypatch.setattr(queues, 'push_drawn', push_drawn)
  monkeypatch.setattr(queues, 'sample', sample)


def push(queue, rows):
  return queues.push(queue, rows, jnp.zeros(len(rows), int), jnp.ones(len(rows), bool))


@pytest.mark.parametrize('name', WEIGHTS)
def test_channels_in_training(golden, monkeypatch, name):
  """Values, gradients of student and head, and the queue of the first call."""
  call = 'channels/train/step0'
  give_draws(monkeypatch, golden, call)
  state, inputs = channels_of(golden, 0)
  weights = dict.fromkeys(WEIGHTS.values(), 0.0) | {WEIGHTS[name]: 1.0}
  method = distillers.channels(**weights, slots=SLOTS, samples=SAMPLES)

  @jax.jit
  def loss(params, student):
    return method.loss(state._replace(params=params), distillers.DistillInputs(
        {'embedding': student}, inputs.teacher, rng=inputs.rng))
  (value, (memory, _)), (head, student) = jax.value_and_grad(loss, (0, 1), has_aux=True)(
      state.params, inputs.student['embedding'])
  np.testing.assert_allclose(value, golden[f'{call}/{name}'], rtol=1e-5)
  want = golden[f'{call}/{name}/g_feat_s']  # every seventh, in the order of (N, C, H, W)
  assert_close(np.moveaxis(student, -1, 1).ravel()[::7], want)
  for (path, got), want in zip(jax.tree.leaves_with_path(head),
                               jax.tree.leaves(head_of(golden, f'{call}/{name}/gw')), strict=True):
    assert_close(got, want, str(path))
  if name == 'memory':
    np.testing.assert_allclose(memory['queue'].embeddings[0], golden[f'{call}/queue'], atol=1e-6)
    np.testing.assert_array_equal(memory['queue'].pointer, golden[f'{call}/ptr'])


def test_channels_where_the_ring_ends(golden, monkeypatch):
  """36 rows at slot 72 of 90: the official code writes the last 36 slots, ours goes round.

  The losses are compared on the official queue.
  """
  call = 'channels/train/step2'
  give_draws(monkeypatch, golden, call, golden[f'{call}/queue'])
  state, inputs = channels_of(golden, 2)
  method = distillers.channels(
      cross_weight=1, mse_weight=1, memory_weight=1, slots=SLOTS, samples=SAMPLES)
  _, (memory, metrics) = jax.jit(method.loss)(state, inputs)
  for name, ours in zip(WEIGHTS, ('cross', 'mse', 'memory'), strict=True):
    np.testing.assert_allclose(metrics[f'{ours}/raw'], golden[f'{call}/{name}'], rtol=1e-5)
  official, before = golden[f'{call}/queue'], state.memory['queue'].embeddings[0]
  rows = official[-PUSHED:]  # in the order in which they were pushed
  np.testing.assert_array_equal(golden[f'{call}/ptr'], 0)
  np.testing.assert_array_equal(memory['queue'].pointer, 18)
  got = memory['queue'].embeddings[0]
  np.testing.assert_allclose(got[72:], rows[:18], atol=1e-6)
  np.testing.assert_allclose(got[:18], rows[18:], atol=1e-6)
  np.testing.assert_array_equal(got[18:72], before[18:72])


def test_channels_in_evaluation(golden):
  """By the running statistics, which a distiller never uses: the losses alone, on pooled maps."""
  call = 'channels/eval/step0'
  state, inputs = channels_of(golden, 0)
  teacher = jax.jit(lambda x: pooling.pool(x, (4, 4), 'mean'))(inputs.teacher['embedding'])
  hidden = {'params': state.params['hidden'],
            'batch_stats': state.memory['batch_stats']['hidden']}
  pushed = jax.jit(lambda queue: push(queue, losses.channel_vectors(teacher, pool=None).reshape(
      -1, teacher.shape[1] * teacher.shape[2])[golden[f'{call}/push_order']]))(
          state.memory['queue'])
  np.testing.assert_allclose(pushed.embeddings[0], golden[f'{call}/queue'], atol=1e-6)

  def values(student):
    x = pooling.pool(student, (4, 4), 'mean')
    x = ConvNorm(WIDTH, 1).apply(hidden, x, train=False)
    x = Conv(WIDTH, 1).apply({'params': state.params['projection']}, x)
    anchors = (losses.channel_vectors(y, pool=None) for y in (x, teacher))
    return {'minibatch': losses.cross_image_channel(x, teacher, pool=None),
            'mse': losses.channel_mse(x, teacher, pool=None),
            'memory': losses.memory_similarity(
                *anchors, pushed.embeddings[0][golden[f'{call}/slots']])}
  student = inputs.student['embedding']
  got, gradients = jax.jit(lambda x: (values(x), jax.jacrev(values)(x)))(student)
  for name in WEIGHTS:
    np.testing.assert_allclose(got[name], golden[f'{call}/{name}'], rtol=1e-5)
    assert_close(np.moveaxis(gradients[name], -1, 1).ravel()[::7],
                 golden[f'{call}/{name}/g_feat_s'], name)


def test_context_block(golden):
  def tree(prefix):
    get = lambda name: kernel(golden[f'{prefix}/{name}.weight'])
    return {'query': get('node_q'), 'key': get('node_k'), 'value': get('node_v'),
            'back': conv_norm(golden, f'{prefix}/conv1'),
            'out': conv_norm(golden, f'{prefix}/out_conv')}

  def running(prefix):
    return {ours: statistics(golden, f'{prefix}/{theirs}')
            for ours, theirs in (('back', 'conv1'), ('out', 'out_conv'))}

  @jax.jit
  def forward(params, x):
    out, updated = ContextBlock(block_size=20).apply(
        {'params': params, 'batch_stats': running('context/w')}, x, mutable=['batch_stats'])
    return jnp.sum(out * last(golden['context/in/cotangent'])), (out, updated['batch_stats'])
  (_, (out, updated)), (params, x) = jax.value_and_grad(forward, (0, 1), has_aux=True)(
      tree('context/w'), last(golden['context/in/x']))
  assert_close(out, last(golden['context/train/out']))
  assert_close(x, last(golden['context/train/g_x']))
  for (path, got), want in zip(
      jax.tree.leaves_with_path(params), jax.tree.leaves(tree('context/train/gw')), strict=True):
    assert_close(got, want, str(path))
  count = 2 * 8 * 6  # PyTorch keeps the unbiased variance
  for layer, want in running('context/bn_after').items():
    got, start = updated[layer]['norm']['norm'], running('context/w')[layer]['norm']['norm']
    assert_close(got['mean'], want['norm']['norm']['mean'], layer)
    unbiased = 0.9 * start['var'] + (got['var'] - 0.9 * start['var']) * count / (count - 1)
    assert_close(unbiased, want['norm']['norm']['var'], layer)
