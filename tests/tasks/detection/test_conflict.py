"""The target conflict of a teacher and a student: counts by hand, heads of all kinds, devices."""

import functools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from kdseg_jax import data, evaluate, losses, parallel, predict, tasks
from kdseg_jax.data import fitted
from kdseg_jax.errors import UserError
from kdseg_jax.inference import Model, evaluation
from kdseg_jax.report import detection, pictures, presenters
from kdseg_jax.tasks.detection import conflict, heads
from kdseg_jax.training import loop
from tests import runs, toys
from tests.tasks.tiny_detector import Mixed, Tiny, config_of

SQUARE = (0.0, 0.0, 10.0, 10.0)
HALF = (0.0, 0.0, 10.0, 5.0)  # IoU 0.5 with it
AWAY = (20.0, 20.0, 30.0, 30.0)


def said(scores, boxes):
  return conflict.Said(jnp.float32([scores]), jnp.float32([boxes]))


def by_hand():
  """Five positions of two classes: two positive, two of background, one that does not count."""
  return conflict.conflict_sums(
      said([(0.75, 0), (0.5, 0.25), (0.125, 0), (0, 0.25), (0.9, 0.9)],
           [SQUARE, HALF] + [AWAY] * 3),
      said([(0.25, 0), (0.5, 0.75), (0, 0.75), (0, 0.1), (0.9, 0.9)], [HALF, AWAY] + [SQUARE] * 3),
      said([(1, 0), (0, 0.5), (0, 0), (0, 0), (0, 0)], [SQUARE] * 5),
      positive=jnp.array([[True, True, False, False, False]]),
      where=jnp.array([[True, True, True, True, False]]))


def test_sums_by_hand():
  # Teacher and target are apart by 0.75 and 0.5 where positive, 0.75 and 0.1 elsewhere.
  sums = jax.device_get(by_hand())
  assert sums['positive'] == 2 and sums['background'] == 2
  thresholds = np.array(conflict.THRESHOLDS)
  np.testing.assert_array_equal(
      sums['positive_above'], (thresholds < 0.749).astype(int) + (thresholds < 0.499))
  np.testing.assert_array_equal(
      sums['background_above'], (thresholds < 0.749).astype(int) + (thresholds < 0.0999))
  # Student to target, teacher to target, student to teacher.
  np.testing.assert_allclose(sums['positive_scores'], [0.25 + 0.5, 0.75 + 0.5, 0.5 + 0.5])
  np.testing.assert_allclose(sums['conflict_scores'], [0.25 + 0.125, 0.75 + 0.75, 0.5 + 0.75])
  np.testing.assert_allclose(sums['positive_boxes'], [0 + 0.5, 0.5 + 1, 0.5 + 1])


def test_shares_and_means_by_hand_and_tables_of_them():
  found = conflict.summarize(jax.device_get(by_hand()))
  at = lambda name, threshold: found[name][found['thresholds'].index(threshold)]
  assert found['positive'] == found['background'] == 2
  assert [at('positive_share', x) for x in (0.4, 0.6, 0.8)] == [1, 0.5, 0]
  assert [at('background_ratio', x) for x in (0.05, 0.6, 0.8)] == [1, 0.5, 0]
  assert found['conflict_scores'] == pytest.approx({
      'positions': 2, 'student_target': 0.1875, 'teacher_target': 0.75, 'student_teacher': 0.625})
  assert found['positive_boxes']['teacher_target'] == pytest.approx(0.75)
  text = detection.conflict_tables(found)
  rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in text.splitlines()]
  assert ['0.7', '0.5000', '0.5000'] in rows and ['0.9', '0.0000', '0.0000'] in rows
  assert ['scores, positive', '2', '0.3750', '0.6250', '0.5000'] in rows
  assert pictures.conflict(found).shape == (570, 1350, 3)
  axes = pictures._conflict_figure(found).axes
  np.testing.assert_allclose(axes[0].lines[0].get_ydata(), found['positive_share'])
  np.testing.assert_allclose(
      [bar.get_height() for bar in axes[1].patches[:3]], [0.375, 0.1875, 0.25])


def test_of_nothing_there_are_no_shares():
  sums = jax.tree.map(np.zeros_like, jax.device_get(by_hand()))
  found = conflict.summarize(sums)
  assert found['positive'] == 0 and np.isnan(found['positive_share']).all()
  assert np.isnan(found['positive_boxes']['student_target'])
  assert '| -' in detection.conflict_tables(found).replace('  ', '').replace('|-', '| -')
  with pytest.raises(UserError, match='no object that is assigned'):
    pictures.conflict(found)


def test_of_several_anchors_the_surest_speaks_and_ignored_positions_are_left_out():
  head = heads.RetinaNet(2, strides=(8,))
  scores = np.full((1, 18, 2), -9, np.float32)  # two positions
  scores[0, 3], scores[0, 5] = (2, -9), (-9, 1)
  scores[0, 4] = (1, 0.5)  # of more on average
  raw = {'cls': [jnp.reshape(scores, (1, 1, 2, 18))], 'reg': [jnp.zeros((1, 1, 2, 36))]}
  spoken = jax.jit(functools.partial(conflict._predicted, head))(raw)
  sigmoid = lambda x: 1 / (1 + np.exp(-x))
  np.testing.assert_allclose(spoken.scores[0, 0], [sigmoid(2), sigmoid(1)], rtol=1e-6)
  np.testing.assert_allclose(spoken.boxes[0, 0], head.joined_priors([(1, 2)])[0][3], atol=1e-4)
  positive, counts = np.zeros((1, 18), bool), np.ones((1, 18), bool)
  positive[0, 4] = True
  counts[0, [5, 12]] = False  # of the positive position, and of the other
  boxes = np.zeros((1, 18, 4), np.float32)
  boxes[0, 4] = SQUARE
  targets = {'positive': positive, 'counts': counts, 'assigned_boxes': boxes,
             'assigned_classes': np.where(positive, 0, 2)}
  sums_of = jax.jit(lambda raw, real: conflict._conflict(head, raw, head, raw, targets, real))
  sums = sums_of(raw, jnp.array([True]))
  assert sums['positive'] == 1 and sums['background'] == 0
  distance = max(1 - sigmoid(2), sigmoid(1))
  np.testing.assert_allclose(sums['positive_scores'], [distance, distance, 0], rtol=1e-5)
  assert sums_of(raw, jnp.array([False]))['positive'] == 0


def test_the_soft_label_of_gfl_is_the_overlap_of_what_it_predicts():
  config = config_of('gfl')
  task, source = tasks.of(config, 10), data.SceneBoxes('val', size=(64, 64), length=2)
  batch = next(iter(evaluation.pipeline.evaluation_batches(
      source, fields=task.fields, batch_size=2)))
  head = task.dense_head()

  @jax.jit
  def made(batch):
    raw = Tiny(10).init_with_output(jax.random.key(0), batch['image'])[0][0]
    targets, flat = task.loss(raw, batch)[1][0], head.flatten(raw)
    return targets, head.class_targets(flat, targets), head.decode(
        flat.reg, targets['priors'], targets['prior_strides'])
  targets, labels, boxes = jax.device_get(made(batch))
  positive = np.argwhere(targets['positive'])
  assert len(positive) and labels.sum(axis=-1)[~targets['positive']].max() == 0
  overlaps = heads.box_losses.box_overlaps(boxes, targets['assigned_boxes'])
  for n, p in positive:
    assert labels[n, p].max() == labels[n, p, targets['assigned_classes'][n, p]] == (
        pytest.approx(float(overlaps[n, p]), abs=1e-6))


def teacher_of(head):
  config = config_of(head)
  module = Tiny(10, head)
  return Model(module, toys.variables(module, jnp.zeros((1, 64, 64, 3))), tuple('abcdefghij'),
               config)


def background_of(head, example):
  """How many positions are background in all of their anchors, and how many count."""
  shapes = [(64 // stride,) * 2 for stride in head.strides[:3]] + [(1, 1)] * 2
  rows = np.array([[example['mask'].any(axis=1).sum(), example['mask'].any(axis=0).sum()]])
  counted = np.asarray(head.counted(shapes, -(-rows // 32) * 32, 1))[0]
  boxes = example['boxes'][~example['crowd']]
  overlaps = np.where(counted, losses.pairwise_overlaps(boxes, head.joined_priors(shapes)[0]), 0)
  best = (overlaps == overlaps.max(axis=1, keepdims=True)).any(axis=0)
  free = counted & (overlaps.max(axis=0) < 0.4) & ~best
  return [int(x.reshape(-1, head.per_position).all(axis=1).sum()) for x in (free, counted)]


@pytest.mark.parametrize('student,teacher', [('gfl', 'fcos'), ('retinanet', 'atss')])
def test_it_is_the_same_on_eight_devices_and_ap_is_that_of_the_student(student, teacher):
  task, model, teacher = tasks.of(config_of(student), 10), Tiny(10, student), teacher_of(teacher)
  variables = jax.tree.map(lambda x: 2 * x, toys.variables(model, jnp.zeros((1, 64, 64, 3))))
  source, found = fitted.Fitted(Mixed(5), (64, 64)), []
  for count in (1, 8):
    evaluator = evaluation.Evaluator(
        conflict.Conflict(task, teacher), model, parallel.create_mesh(jax.devices()[:count]),
        batch_size=4)
    found.append(evaluator((variables, teacher.variables), source))
  assert found[0]['conflict']['positive'] > 0 and found[0]['images'] == 5
  if student == 'retinanet':  # whose assigner ignores some
    background, counted = np.sum(
        [background_of(task.dense_head(), source[i]) for i in range(5)], axis=0)
    assert found[0]['conflict']['background'] == background
    assert background < counted - found[0]['conflict']['positive']
  both = [jax.tree.leaves(x['conflict']) for x in found]
  np.testing.assert_allclose(*both, rtol=1e-5)
  alone = evaluation.Evaluator(task, model, parallel.create_mesh(jax.devices()[:1]), batch_size=4)
  found[0].pop('conflict')
  np.testing.assert_equal(alone(variables, source), found[0])


def test_padding_is_left_out_of_every_head():
  source, positions = fitted.Fitted(Mixed(3), (128, 128)), []
  for head in ('fcos', 'gfl'):
    model = Tiny(10, head)
    evaluator = evaluation.Evaluator(
        conflict.Conflict(tasks.of(config_of(head), 10), teacher_of(head)), model,
        parallel.create_mesh(jax.devices()[:1]), batch_size=3)
    variables = toys.variables(model, jnp.zeros((1, 64, 64, 3)))
    found = evaluator((variables, teacher_of(head).variables), source)['conflict']
    positions.append(found['positive'] + found['background'])
  # 128x128, 77x128 and 128x53, of which 96 rows and 64 columns count, in levels of 8 to 128.
  whole = 16 * 16 + 8 * 8 + 4 * 4 + 2 * 2 + 1
  assert positions == [whole + (12 * 16 + 6 * 8 + 3 * 4 + 2 * 2 + 1)
                       + (16 * 8 + 8 * 4 + 4 * 2 + 2 + 1)] * 2


def test_a_student_that_is_its_teacher_is_as_far_from_the_target():
  task, teacher = tasks.of(config_of('atss'), 10), teacher_of('atss')
  evaluator = evaluation.Evaluator(
      conflict.Conflict(task, teacher), teacher.module, parallel.create_mesh(jax.devices()[:1]))
  found = evaluator((teacher.variables,) * 2, fitted.Fitted(Mixed(3), (64, 64)))['conflict']
  for name in conflict.MEANS[::2]:
    assert found[name]['student_teacher'] == pytest.approx(0, abs=1e-5)
    assert found[name]['student_target'] == pytest.approx(found[name]['teacher_target'])
    assert found[name]['student_target'] > 0


def test_teachers_that_cannot_be_compared_are_refused():
  task = tasks.of(config_of(), 3)
  with pytest.raises(UserError, match='is no detector'):
    conflict.Conflict(task, toys.loaded(None))
  shapes = [[jnp.zeros((1, side, 4, 3))] for side in (4, 2)]
  raw = [{'cls': maps, 'reg': maps} for maps in shapes]
  with pytest.raises(UserError, match='expected the same strides'):
    conflict._conflict(heads.GFL(3), raw[0], heads.GFL(3), raw[1], {}, None)
  class Options(types.SimpleNamespace):
    __getitem__ = lambda self, name: types.SimpleNamespace(
        value='x.png' if name == 'conflict' else None)
  options = Options(config=config_of(), workdir='w')
  with pytest.raises(UserError, match='--conflict: needs the teacher, and .* of w is empty'):
    evaluate._figures(options, 'detection')
  with pytest.raises(UserError, match='figure of the task segmentation'):
    evaluate._figures(options, 'segmentation')
  assert [name for name, figure in presenters.figures().items() if figure.beside_teacher] == [
      'conflict']


@pytest.mark.slow
def test_evaluate_prints_and_draws_it_and_predict_shows_both(tmp_path, capsys):
  for name, head in (('teacher', 'fcos'), ('student', 'gfl')):
    loop.train(config_of(head, **{'train.steps': 2, 'eval.pictures': 0}), str(tmp_path / name))
  options = (f'--workdir={tmp_path / "student"}', '--allow_imports=tests.tasks',
             f'--conflict={tmp_path / "a.png"}', f'--json={tmp_path / "a.json"}')
  status, text = runs.run_here(capsys, evaluate.PROGRAM, *options)
  assert status == 2 and '--conflict: needs the teacher' in text
  assert not (tmp_path / 'a.json').exists()
  status, text = runs.run_here(
      capsys, evaluate.PROGRAM, *options, f'--config.teacher.checkpoint={tmp_path / "teacher"}')
  assert not status, text
  assert 'teacher - target above' in text and f'checkpoint 2 of {tmp_path / "teacher"}' in text
  found = json.loads((tmp_path / 'a.json').read_text())
  assert found['images'] == 11 and found['conflict']['positive'] > 0
  assert np.asarray(PIL.Image.open(tmp_path / 'a.png')).shape == (570, 1350, 3)
  status, text = runs.run_here(
      capsys, predict.PROGRAM, f'--workdir={tmp_path / "student"}', '--allow_imports=tests.tasks',
      f'--compare={tmp_path / "teacher"}', '--split=val', '--config.eval.limit=2',
      f'--output={tmp_path / "out"}')
  assert not status and '2 images' in text, text
  picture = np.asarray(PIL.Image.open(tmp_path / 'out/pictures/val_00000.png'))
  assert picture.shape[1] > 3 * 128  # ground truth, student and teacher
