"""The parts of a step, each alone: that they are all of it, and do what it does."""

import gzip
import itertools
import json
import os
import types

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from kdseg_jax import distillers, parallel
from kdseg_jax.errors import NotFoundError
from kdseg_jax.training import experiment, profiling, trace
from tests import toy_task
from tests.tasks.test_toy_task import config_of

METHOD = '+'.join(f'tests.toy_methods:{term}' for term in (
    'of_value@0.5', 'through_head', 'against_critic@2'))
PARTS = ['teacher', 'student forward', 'student backward, with the loss of the task',
         'against_critic', 'of_value', 'through_head', 'critic', 'optimiser']


@pytest.fixture
def build(monkeypatch):
  toy_task.register(monkeypatch)

  def build(**fields):
    config, teacher = profiling.untrained_teacher(
        config_of(METHOD, **fields), config_of(role='teacher'))
    return experiment.create_experiment(config, teacher=teacher)
  return build


@pytest.mark.parametrize('mode', parallel.MODES)
def test_the_loss_of_the_step_is_the_sum_of_those_of_its_parts(build, mode):
  built = build(parallel=mode)
  batch = next(profiling.training_batches(built, 'train', start=0))
  parts = {part.name: part for part in profiling.parts_of(built, batch)}
  assert list(parts) == [*PARTS[:3], profiling._TARGETS, *PARTS[3:], profiling.STEP]
  assert {name: part.less for name, part in parts.items() if part.less} == {
      PARTS[2]: PARTS[1], 'through_head': profiling._TARGETS, 'critic': profiling._TARGETS}
  assert [name for name, part in parts.items() if not part.counts] == [
      profiling._TARGETS, profiling.STEP]
  (loss, _), gradients = parts[PARTS[2]].run()
  assert all(np.any(x) for x in jax.tree.leaves(gradients))
  losses = [loss]
  losses += [parts[term].run()[0][0][0] for term in PARTS[3:6]]
  _, metrics = parts[profiling.STEP].run()
  assert sum(map(float, losses)) == pytest.approx(float(metrics['loss']), rel=1e-5)
  assert min(map(abs, map(float, losses[:3]))) > 0  # the head sees what the teacher's own does
  state, _ = parts['critic'].run()
  (_, updated), _ = parts['optimiser'].run()
  assert np.isfinite(state.critic['against_critic']['w']) and updated.step == 1
  assert any(np.any(x) for x in jax.tree.leaves(updated.opt_state.trained))  # which began as 0


def test_dropout_and_method_draw_unlike_and_anew_in_every_step_and_run():
  keys = [key for seed in (0, 1) for step in (0, 1) for key in profiling._keys(
      types.SimpleNamespace(rng=jax.random.key(seed), step=step))]
  assert len({str(jax.random.key_data(key)) for key in keys}) == 8


def test_what_is_timed_adds_up_and_a_trace_is_left(build, tmp_path):
  found = profiling.measure(build(**{'train.ema_decay': 0.9}), repeats=3,
                            trace_folder=str(tmp_path))
  assert list(found.parts) == PARTS and found.input.costs is None
  assert sum(part.seconds for part in found.parts.values()) + found.rest == pytest.approx(
      found.step.seconds)
  assert found.step.seconds > 0 and found.step.costs.flops > 0
  assert found.step.costs.bytes > found.step.costs.peak_bytes / 10 > 0
  low, high = found.step.quartiles
  assert low <= found.step.seconds <= high
  assert found.operations and all(operation.seconds > 0 for operation in found.operations)
  assert 'while' not in found.operations[0].kind and found.operations[0].count >= 1
  assert list(tmp_path.rglob('perfetto_trace.json.gz')) and list(tmp_path.rglob('*.xplane.pb'))


def test_each_part_has_its_own_seconds_and_the_round_that_compiles_does_not_count(monkeypatch):
  clock = [0.0]
  monkeypatch.setattr(profiling.time, 'perf_counter', lambda: clock[0])

  def part(name, seconds, costs=(9, 90, 1), **fields):
    rounds = iter([90.0, *seconds])
    program = types.SimpleNamespace(costs=lambda: parallel.Costs(*costs), hlo=str)
    return types.SimpleNamespace(name=name, program=program, **fields, run=lambda: (
        clock.append(clock.pop() + next(rounds))))
  step = part(profiling.STEP, [30.0, 10.0, 20.0], less=None, counts=False)
  parts = [part('a', [1.0, 3.0, 2.0], (2, 10, 7), less=None, counts=True),
           part('b', [8.0, 7.0, 6.0], (5, 30, 8), less='a', counts=True), step]
  monkeypatch.setattr(profiling, 'parts_of', lambda experiment, batch: parts)

  def batches():
    for seconds in itertools.chain([None, 50.0], itertools.repeat(4.0)):  # the first is the step's
      clock[0] += seconds or 0
      yield
  monkeypatch.setattr(profiling, 'training_batches', lambda *_, **__: batches())
  monkeypatch.setattr(profiling, 'trace', types.SimpleNamespace(
      record=lambda *_: None, operations=lambda *_: []))
  found = profiling.measure(None, repeats=3, trace_folder='')
  assert found.step.seconds == 20 and found.parts['a'].seconds == 2
  assert found.parts['b'].seconds == 7 - 2 and found.rest == 20 - 2 - 5
  assert found.step.quartiles == (15, 25) and found.parts['b'].quartiles == (6.5 - 2, 7.5 - 2)
  assert found.input.seconds == 4
  assert [one.costs for one in (*found.parts.values(), found.step)] == [
      (2, 10, 7), (5 - 2, 30 - 10, 8), (9, 90, 1)]


@pytest.mark.parametrize('method, parts', [
    ('kd@2+fitnets', ['fitnets', 'kd']), ('kd@2+fitnets+context', ['context@1+fitnets@10+kd@2'])])
def test_terms_are_parts_each_with_its_state_but_where_one_wraps_the_others(method, parts):
  config = ConfigDict({'distill': distillers.terms_of(method)})
  state = distillers.DistillerState(*({'kd': f'kd {group}', 'fitnets': f'fitnets {group}'}
                                      for group in distillers.DistillerState._fields))
  whole = distillers.create(distillers.terms_of('kd'))
  found = list(profiling._terms(types.SimpleNamespace(config=config, distiller=whole), state))
  assert [name for name, _, _ in found] == parts
  if len(parts) == 1:
    assert found[0][1:] == (whole, state)
    return
  for name, term, own in found:
    assert own == distillers.DistillerState(*({name: group[name]} for group in state))
    assert term.requires == distillers.create({name: config.distill[name].to_dict()}).requires


def test_a_term_of_weight_0_is_no_part(build):
  built = build(**{'distill.of_value.weight': 0.0})
  batch = next(profiling.training_batches(built, 'train', start=0))
  names = [part.name for part in profiling.parts_of(built, batch)]
  assert 'of_value' not in names and {'against_critic', 'through_head'} <= {*names}


@pytest.mark.slow
def test_a_step_of_two_programs_is_timed_as_one(build, tmp_path):
  found = profiling.measure(build(**{'train.split_teacher': True}), repeats=1,
                            trace_folder=str(tmp_path))
  assert list(found.parts) == PARTS and found.step.seconds > 0


HLO = """
ENTRY %main.7 (x: f32[4,4]) -> f32[4,4] {
  %x = f32[4,4]{1,0} parameter(0)
  %conv.2 = f32[4,4]{1,0} convolution(%x, %x), window={}
  %dot.1 = f32[4,4]{1,0} dot(%x, %conv.2), lhs_contracting_dims={1}
  %ynn_fusion.1 = f32[4,4]{1,0} fusion(%x, %dot.1), kind=kCustom
  %cublas-gemm.1 = f32[4,4]{1,0} custom-call(%x), custom_call_target="__cublas$gemm"
  %topk.1 = f32[4,4]{1,0} custom-call(%x), custom_call_target="TopK"
  ROOT %add_fusion = f32[4,4]{1,0} fusion(%ynn_fusion.1), kind=kLoop
}
"""


def test_operations_are_counted_by_kind_and_step(tmp_path):
  with pytest.raises(NotFoundError, match='holds no trace'):
    trace.operations(str(tmp_path), HLO)
  event = lambda name, ts, dur: {'ph': 'X', 'name': name, 'ts': 1e6 * ts, 'dur': 1e6 * dur}
  events = [event('conv.2', 1, 0.5), event('end: conv.2', 5, 1), event('dot.1', 1, 1),
            event('ynn_fusion.1', 2, 2), event('add_fusion', 3, 4), event('another', 0, 9),
            event('cublas-gemm.1', 7, 3), event('topk.1', 8, 0.25),
            {'ph': 'M', 'name': 'x'}, {'displayTimeUnit': 'ns'}]
  with gzip.open(tmp_path / 'host.trace.json.gz', 'wt') as file:
    json.dump({'traceEvents': 2 * events}, file)
  assert trace.operations(str(tmp_path), HLO, steps=2) == [
      ('product', 6, 3), ('convolution', 5, 1), ('fusion', 4, 1), ('custom-call', 0.25, 1)]


def test_a_run_whose_end_was_not_traced_is_as_long_as_its_start(tmp_path):
  event = lambda name, ts, dur: {'ph': 'X', 'name': name, 'ts': 1e6 * ts, 'dur': 1e6 * dur}
  events = [event('conv.2', 1, 0.5), event('conv.2', 5, 0.25), event('end: conv.2', 3, 1)]
  with gzip.open(tmp_path / 'host.trace.json.gz', 'wt') as file:
    json.dump({'traceEvents': events}, file)
  assert trace.operations(str(tmp_path), HLO, steps=1) == [('convolution', 0.75, 2)]


def test_of_several_traces_the_newest_is_read(tmp_path):
  for name, seconds, age in (('b', 1, 2), ('c', 7, 0), ('a', 3, 1)):
    path = tmp_path / name / 'host.trace.json.gz'
    path.parent.mkdir()
    with gzip.open(path, 'wt') as file:
      event = {'ph': 'X', 'name': 'dot.1', 'ts': 0, 'dur': 1e6 * seconds}
      json.dump({'traceEvents': [event]}, file)
    os.utime(path, (1e9 - age, 1e9 - age))
  assert trace.operations(str(tmp_path), HLO, steps=1) == [('product', 7, 1)]


def test_an_untrained_teacher_has_random_weights(build):
  config, teacher = profiling.untrained_teacher(
      config_of(METHOD), config_of(role='teacher'))
  assert config.teacher.checkpoint and teacher.classes == ()
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(teacher.variables))
