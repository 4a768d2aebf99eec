"""The benchmarks: rows that can be run, sides in turns, what is written of them, growth."""

import argparse
import itertools
import json
import pathlib
import re
import sys

import jax
import numpy as np
import pytest

from experiments import benchmarks
from experiments.benchmarks import __main__ as main
from experiments.benchmarks import (
  growth,
  inputs,
  interleave,
  our_losses,
  our_steps,
  rows,
  side_by_side,
  table,
)
from kdseg_jax import host_memory, models
from kdseg_jax.studies.plan import student_workdir

FOLDER = pathlib.Path(benchmarks.__file__).parent
MACHINE = {'cores': 2, 'flags': ['avx2'], 'architecture': 'x86_64', 'memory_gb': 8,
           'system': 'Linux', 'python': '3.11', 'versions': {'jax': '0.10.2'}, 'torch': '2.13.0'}
LOSSES = [row.name.removeprefix('loss/') for row in rows.chosen(['loss/*'])]


def test_rows_are_named_once_and_their_sides_are_there():
  for found in rows.ROWS.values():
    assert len({row.name for row in found}) == len(found)
  for row in itertools.chain(*rows.ROWS.values()):
    assert len(row.sides) > 1 and row.what, row.name
    for work in row.sides.values():
      assert (FOLDER / f'{work.partition(":")[0]}.py').exists(), work


def test_only_the_files_of_pytorch_import_it_and_they_import_no_jax():
  imports = lambda words, name: re.search(rf'^ *(import|from) {name}\b', words, re.M)
  for path in FOLDER.glob('*.py'):
    words, of_torch = path.read_text(), path.name.startswith('torch_')
    assert bool(imports(words, 'torch')) == of_torch, path.name
    if of_torch or path.name in ('inputs.py', 'worker.py', '__init__.py'):
      assert not imports(words, '(kdseg_)?jax'), path.name


def test_rows_are_chosen_by_patterns():
  assert rows.chosen([]) == list(rows.ROWS['cpu'])
  assert [row.name for row in rows.chosen(['step/kd_*', 'loss/giou'])] == [
      'loss/giou', 'step/kd_resnet18_128', 'step/kd_mobilenetv2_128']


@pytest.mark.parametrize('name', LOSSES)
def test_every_loss_is_computed_of_its_arrays(name):
  arrays = inputs.arrays(name, images=2, side=16)
  student = arrays.pop('student')
  value, gradient = jax.eval_shape(our_losses.compiled(name), student, arrays)
  assert value.shape == () and gradient.shape == student.shape


@pytest.mark.parametrize('name', LOSSES)
def test_no_two_arrays_of_a_loss_are_the_same(name):
  arrays = inputs.arrays(name, images=2, side=16)
  for one, other in itertools.combinations(arrays, 2):
    shared = [slice(min(sizes)) for sizes in zip(arrays[one].shape, arrays[other].shape)]
    same = np.mean(arrays[one][tuple(shared)] == arrays[other][tuple(shared)]) if (
        arrays[one].ndim == arrays[other].ndim) else 0
    assert same < 0.5, (one, other)


def test_what_is_remembered_is_of_no_pixel():
  queue = np.ravel(inputs.queue(40))[:200]
  for seed in range(6):
    assert abs(np.corrcoef(queue, inputs.normal((200,), seed))[0, 1]) < 0.5


@pytest.mark.parametrize('name', ['distillers', 'review'])
def test_no_two_taps_are_the_same(name):
  student, teacher, batch = inputs.taps(name)
  found = [np.ravel(tap)[:1_000] for tap in (*student.values(), *teacher.values())]
  for one, other in itertools.combinations(found, 2):
    assert np.mean(one == other) < 0.5
  assert set(batch) == ({'image', 'label', 'index'} if name == 'distillers' else set())


def test_operations_are_those_of_the_layers_without_padding():
  module = models.create('deeplabv3_resnet18', inputs.SCENES_CLASSES)
  of_papers = 6 * inputs.BATCH * models.complexity(module, (128, 128)).macs
  what = inputs.Step.parse('rate_resnet18_128')
  assert 0.5 < our_steps.operations(what) / of_papers < 1  # the pyramid reads padding


def test_a_step_is_named_by_what_it_is_of():
  assert inputs.Step.parse('kd_resnet18_128') == ('kd', 'resnet18', (4, 128, 128), 'float32')
  assert inputs.Step.parse('forward_resnet101_8x512x1024_bfloat16') == (
      'forward', 'resnet101', (8, 512, 1024), 'bfloat16')
  images, labels = inputs.batch((2, 32, 64))
  assert (images.shape, labels.shape) == ((2, 32, 64, 3), (2, 32, 64))


def measured(seconds, **facts):
  facts = {'amount': 1.0, 'peak_bytes': 3e6, 'before_bytes': 1e6} | facts
  return interleave.Measured(seconds, [2 * x for x in seconds], facts)


def row(**fields):
  sides = {rows.OURS: 'our_losses:x', rows.TORCH: 'torch_losses:x',
           rows.CHANNELS_LAST: 'torch_losses:x'}
  return rows.Row('loss/giou', 'boxes', sides, **fields)


def test_the_faster_layout_is_the_peer():
  found = table.result(row(), {
      rows.OURS: measured([1.0, 3.0, 2.0], value=1.0),
      rows.TORCH: measured([8.0, 8.0], value=1.0, peak_bytes=2e6),
      rows.CHANNELS_LAST: measured([4.0], value=1.0, peak_bytes=5e6)})
  assert (found['peer'], found['ratio'], found['memory_ratio']) == (rows.CHANNELS_LAST, 0.5, 0.5)
  assert found['same_value'] and found['sides'][rows.OURS]['quartiles'] == (1.5, 2.5)


def test_memory_is_of_a_call_or_of_the_process():
  sides = {rows.OURS: measured([1.0], peak_bytes=4e6), rows.TORCH: measured([1.0], peak_bytes=2e6)}
  assert table.result(row(), sides)['memory_ratio'] == 3
  assert table.result(row(resident=True), sides)['memory_ratio'] == 2


def test_memory_of_a_device_is_what_it_held_at_most():
  sides = {rows.OURS: measured([1.0], device_peak_bytes=6e6),
           rows.TORCH: measured([1.0], device_peak_bytes=2e6)}
  found = table.result(row(), sides)
  assert found['memory_ratio'] == 3
  text = table.markdown(MACHINE | {'device': 'An accelerator'}, {'loss/giou': found})
  assert 'An accelerator; 2 cores' in text and 'peak of all that the device held' in text


def test_a_rate_is_of_what_is_done_in_the_time_of_its_clock():
  found = table.result(row(rate=True, clock='cpu_seconds'), {
      rows.OURS: measured([1.0], amount=10.0), rows.TORCH: measured([2.0], amount=5.0)})
  assert found['ratio'] == 4 and found['sides'][rows.OURS]['median'] == 2
  assert found['same_value'] is None


def test_what_went_wrong_is_said():
  broken = interleave.Measured([], [], {}, 'ModuleNotFoundError: torch')
  results = {'loss/giou': table.result(row(reach=0.8), {
      rows.OURS: measured([1.0], value=1.0), rows.TORCH: measured([2.0], value=1.1),
      rows.CHANNELS_LAST: broken})}
  text = table.markdown(MACHINE, results)
  assert 'torch, channels last: ModuleNotFoundError: torch' in text
  assert 'the sides computed different values' in text and re.search(r'0\.50 \| +<= 0\.8 \|', text)
  step = measured([1.0], operations={'product': 3.0, 'fusion': 1.0})
  text = table.markdown(MACHINE, {'loss/giou': table.result(row(), {rows.OURS: step})})
  assert 'product 3000.0 ms (75%), fusion 1000.0 ms (25%)' in text
  alone = table.result(row(), {rows.OURS: measured([1.0])})
  assert 'ratio' not in alone and '| loss/giou |' in table.markdown(MACHINE, {'loss/giou': alone})


@pytest.mark.parametrize('seconds, median, quartiles', [
    ([3.0, 1.0, 2.0, 9.0, 4.0], 3, (2, 4)), ([1.0, 9.0], 5, (3, 7)), ([7.0], 7, (7, 7))])
def test_the_time_of_a_call_is_the_median_between_the_quartiles(seconds, median, quartiles):
  found = interleave.Measured(seconds, [], {})
  assert (found.median, found.quartiles) == (median, quartiles)


def test_parts_join_in_a_folder_and_other_machines_do_not(tmp_path):
  found = {'loss/giou': table.result(row(), {rows.OURS: measured([1.0])})}
  table.write(str(tmp_path), MACHINE, {'loss/diou': found['loss/giou']})
  text = table.write(str(tmp_path), MACHINE, found)
  assert 0 < text.index('| loss/giou') < text.index('| loss/diou')  # in the order of the rows
  assert set(json.loads((tmp_path / table.JSON).read_text())['rows']) == {'loss/giou', 'loss/diou'}
  with pytest.raises(SystemExit, match='of another machine'):
    table.write(str(tmp_path), MACHINE | {'cores': 4}, found)
  again = {'loss/giou': table.result(row(), {rows.OURS: measured([7.0])})}
  assert again != found
  table.write(str(tmp_path), MACHINE, again)
  assert json.loads((tmp_path / table.JSON).read_text())['rows'] == json.loads(json.dumps(
      again | {'loss/diou': found['loss/giou']}))


def test_rows_are_measured_in_turns_as_often_as_all_permit_and_each_gets_its_own(monkeypatch):
  given = {}
  monkeypatch.setattr(interleave, 'measure', lambda sides, **options: (
      given.update(options), {key: side.arguments[0] for key, side in sides.items()})[1])
  args = argparse.Namespace(torch='python', camvid='', device='cpu', torch_keeps_memory=False,
                            repeats=7, together=1)
  named = lambda name, **fields: row(**fields)._replace(
      name=name, sides={rows.OURS: f'our_losses:{name}', 'OpenCV': f'host:{name}'})
  for most, repeats in (((None, None), 7), ((None, 3), 3), ((9, 5), 5), ((9, None), 7)):
    group = [named(name, most=number) for name, number in zip('ab', most)]
    found = list(main.measure(group, args, has_torch=True))
    assert [(one.name, sides) for one, sides in found] == [
        (name, {rows.OURS: f'our_losses:{name}', 'OpenCV': f'host:{name}'}) for name in 'ab']
    assert given == {'repeats': repeats, 'environment': main._ENVIRONMENT['cpu'], 'at_once': False}


def test_the_steps_of_a_study_are_those_of_its_students_and_the_passes_of_its_teacher(tmp_path):
  (tmp_path / 'teacher_cost.json').write_text('{"step_seconds": 0.5, "peak_bytes": 1}')
  seconds = {student_workdir(str(tmp_path), name, 0): 10.0 ** -number
             for number, name in enumerate(side_by_side.STUDENTS)}
  assert side_by_side.study_steps(tmp_path, seconds.get) == pytest.approx(
      0.5 * (side_by_side.STEPS - 1) + 1.11111)


@pytest.mark.parametrize('kept', [True, False])
def test_pytorch_keeps_memory_if_it_is_asked_to(kept):
  args = argparse.Namespace(torch='python', camvid='', device='cpu', torch_keeps_memory=kept)
  sides = main.sides_of(row(), args, has_torch=True)
  assert not sides[rows.OURS].environment  # it would take ours for settings of a user
  for name in (rows.TORCH, rows.CHANNELS_LAST):
    assert set(sides[name].environment) == set(host_memory.VARIABLES if kept else ())


def test_sides_are_measured_in_turns_each_in_a_process():
  found = interleave.measure({
      'ours': interleave.Side(sys.executable, ['our_losses:smooth_l1']),
      'missing': interleave.Side(sys.executable, ['nowhere:x'])}, repeats=3)
  assert len(found['ours'].seconds) == 3 and not found['ours'].error
  assert found['ours'].facts['value'] > 0 and found['ours'].facts['peak_bytes'] > 1e7
  low, high = found['ours'].quartiles
  assert low <= found['ours'].median <= high
  assert 'nowhere' in found['missing'].error and not found['missing'].seconds


def test_the_error_of_a_side_is_not_what_jax_writes_after_it(tmp_path):
  program = tmp_path / 'program'
  program.write_text('#!/bin/sh\nprintf "ValueError: no memory\\n-----\\n'
                     'For simplicity, JAX has removed its internal frames\\n" >&2; exit 1\n')
  program.chmod(0o755)
  found = interleave.measure({'ours': interleave.Side(str(program), [])}, repeats=2, at_once=True)
  assert found['ours'].error == 'ValueError: no memory'


def test_growth_is_the_slope_of_the_logarithms():
  sizes = [100, 200, 400]
  square = growth.Growth('giou', 'pixels', sizes, [x**2 for x in sizes], [5 * x for x in sizes])
  assert square.exponent('time') == pytest.approx(2)
  assert square.exponent('memory') == pytest.approx(1)
  (message,) = growth.unexplained([square])
  assert 'giou over pixels: time grows with the power 2.00' in message
  expected = square._replace(loss='cross_image_pixel')
  assert not growth.unexplained([expected])
  text = growth.markdown([square, expected], MACHINE)
  assert 'nothing explains' in text and 'the pairs grow with the square' in text
  assert growth.draw([square]).shape[2] == 3


def test_growth_measures_pixels_and_queue():
  found = growth.measure('memory_similarity_pixel', 'queue', (16, 64), repeats=1)
  assert found.sizes == [16, 64] and found.bytes[0] < found.bytes[1]


def test_growth_is_of_the_median_call_of_each_size_without_the_first(monkeypatch):
  rounds = ((1, 40), (5, 20), (2, 30))  # seconds of the small size and of the large
  now = itertools.accumulate([0, 0, *(
      seconds for small, large in rounds for seconds in (9, small, 9, large))])
  monkeypatch.setattr(growth.time, 'perf_counter', lambda: next(now))
  found = growth.measure('smooth_l1', 'pixels', (16, 32), repeats=3)
  assert found.sizes == [1364, 5456] and found.seconds == [2, 30]
