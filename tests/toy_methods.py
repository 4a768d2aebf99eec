"""Factories of toy methods, which configs of tests name as users name theirs."""

import jax
import jax.numpy as jnp
import optax

from kdseg_jax import distillers
from tests import toys


def everything(*, slope: float = 1.0, axis_name=None):
  """All four groups of a distiller's state, on logits."""
  return toys.everything((slope, 0.5, 2.0), axis_name=axis_name, tap='logits')


def of_value(*, axis_name=None):
  """The toy task's value of the student, scaled, against the teacher's."""
  return toys.projected(axis_name, 'value')


def through_head(*, axis_name=None):
  """What the teacher's head says of the student's features, where the student errs most."""
  def loss(inputs):
    seen = inputs.teacher_head({'pooled': inputs.student['pooled']}, 0)['value']
    weight = jnp.abs(jax.lax.stop_gradient(inputs.targets['difference']))
    value = jnp.mean(weight * (seen - inputs.teacher['value']) ** 2)
    return jax.lax.pmean(value, axis_name) if axis_name else value
  return distillers.stateless(distillers.Requires(
      student=('pooled',), teacher=('value',), targets=('difference',), teacher_head=True), loss)


def fitting(*, slope: float = 1.0, rate: float | None = None, axis_name=None):
  """A term with a preparation, and perhaps an optimiser of its own."""
  return toys.prepared(axis_name, 'logits', optax.sgd(rate) if rate else None, slope)


def alike(*, slope: float = 1.0, rate: float | None = None, axis_name=None):
  """Another term, whose preparation is that of `fitting`."""
  return fitting(slope=slope, rate=rate, axis_name=axis_name)


def against_critic(*, axis_name=None):
  """A term with a critic, of the toy task's value."""
  return toys.adversarial(axis_name, 'value')
