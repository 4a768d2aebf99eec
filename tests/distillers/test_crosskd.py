"""Cross-head distillation on whole heads, against the official code."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from kdseg_jax import distillers, losses
from kdseg_jax.distillers import dense_predictions
from kdseg_jax.errors import UserError
from kdseg_jax.models.dense_detector import ATSSHead, FCOSHead, GFLHead, RetinaNetHead
from kdseg_jax.tasks.detection import heads
from kdseg_jax.training import step
from tests import official, toys
from tests.models import official_detectors

HEADS = {'gfl': GFLHead, 'retinanet': RetinaNetHead, 'fcos': FCOSHead, 'atss': ATSSHead}
LAYER = {'gfl': 3, 'fcos': 2}
# (height, width) of the images and of their levels, down to one element.
SIZE, LEVELS = 64, ((8, 8), (4, 4), (2, 2), (1, 1), (1, 1))
PYRAMID = ('p3', 'p4', 'p5', 'p6', 'p7')


class Head:
  """A head where the step has a detector, with `head_from`."""

  def __init__(self, head):
    self.head = head

  def apply(self, variables, features, layer, method):
    assert method == 'head_from'
    return self.head.apply(variables, features, layer)


@functools.cache
def golden(name):
  with np.load(official.FOLDER / f'crosskd_{name}.npz') as found:
    return {key.partition('/')[2]: (
        np.moveaxis(x, 1, -1) if x.ndim == 4 and not key.endswith('weight') else x)
        for key, x in found.items()}


def truth_of(*images, boxes=5):
  """`(boxes, classes)` of each image, padded."""
  made = heads.GroundTruth(np.zeros((len(images), boxes, 4), np.float32),
                           np.zeros((len(images), boxes), np.int32),
                           np.zeros((len(images), boxes), bool))
  for i, (found, classes) in enumerate(images):
    made.boxes[i, :len(found)], made.classes[i, :len(found)] = found, classes
    made.valid[i, :len(found)] = True
  return made


def taps_of(head, variables, levels):
  taps = head.apply(variables, {'cls_tower_0': levels, 'reg_tower_0': levels}, 0)
  return taps | dict(zip(PYRAMID, levels))


def only_required(distiller, inputs):
  """The teacher's other taps are not there in training."""
  distillers.check_requires(distiller.requires, inputs)
  return dataclasses.replace(
      inputs, teacher={name: inputs.teacher[name] for name in distiller.requires.teacher})


@pytest.mark.slow
@pytest.mark.parametrize('name', LAYER)
def test_equals_the_official_code(name):
  found, head = golden(name), HEADS[name](num_classes=5, channels=16, norm_groups=4)
  teacher = official_detectors.variables(
      official_detectors.arrays(f'cross_det_{name}'), 'tea.', 'bbox_head.', 'head',
      f'{name}_resnet18')
  # The student's layers that distillation does not reach are not there: any will do.
  own = official_detectors.variables(found, 'stu.', 'bbox_head.', 'head', f'{name}_resnet18')
  student = {'params': teacher['params'] | own['params']}
  truth = truth_of(*((found[f'gt_boxes{i}'], found[f'gt_labels{i}']) for i in (0, 1)))
  sizes = np.array([(128, 128), (96, 128)])
  method = distillers.create(distillers.terms_of('crosskd+pkd'))

  def loss(variables, levels, term):
    taps = taps_of(head, variables, levels)
    _, (targets, _) = heads.HEADS[name](5).loss(taps, truth, sizes=sizes)
    inputs = distillers.DistillInputs(
        student=taps, targets=targets, rng=jax.random.key(0), teacher_head=step.teacher_head(
            Head(head), teacher),
        teacher=taps_of(head, teacher, tuple(found[f'tfeat{i}'] for i in range(5))))
    inputs = only_required(method, inputs)
    state = method.init(jax.random.key(0), inputs)
    _, (_, metrics) = method.loss(state, inputs)
    return metrics[f'{term}/raw'], (metrics, targets)

  levels = tuple(found[f'sfeat{i}'] for i in range(5))
  run = jax.jit(jax.value_and_grad(functools.partial(loss, term='crosskd'), (0, 1), has_aux=True))
  (value, (metrics, targets)), (gradients, of_levels) = jax.device_get(run(student, levels))
  np.testing.assert_allclose(value, found['kd_total'], rtol=1e-5)
  for ours, theirs in (('cls', 'cls'), ('boxes', 'reg')):
    np.testing.assert_allclose(
        metrics[f'crosskd/{ours}'], found[f'loss.loss_{theirs}_kd'].sum(), rtol=1e-5)
  largest = max(np.abs(found[f'kdgrad_sfeat{i}']).max() for i in range(5))
  for i, gradient in enumerate(of_levels):
    np.testing.assert_allclose(gradient, found[f'kdgrad_sfeat{i}'], rtol=0, atol=1e-4 * largest)
  reached = {layer for layer, part in gradients['params'].items()
             if any(np.any(x) for x in jax.tree.leaves(part))}
  assert reached == set(own['params'])
  assert reached == {f'{branch}_convs_{i}' for branch in ('cls', 'reg')
                     for i in range(LAYER[name])}
  if name == 'gfl':
    counts = np.concatenate([found[f'tgt_label_weights{i}'] for i in range(5)], axis=1)
    np.testing.assert_array_equal(targets['counts'], counts)
    assert targets['normalizer'] == found['avg_factor']
    np.testing.assert_allclose(
        metrics['pkd/weighted'], found['loss.loss_feat_kd'].sum(), rtol=1e-5)


@functools.cache
def small(name, channels=8, seed=0, convs=3):
  """A head, its variables, and the pyramid of one image."""
  head = HEADS[name](num_classes=3, channels=channels, stacked_convs=convs)
  draws = np.random.default_rng(seed)
  levels = tuple(draws.standard_normal((1, *size, channels)).astype(np.float32) for size in LEVELS)
  shapes = jax.eval_shape(
      lambda: head.init(jax.random.key(0), {'cls_tower_0': levels, 'reg_tower_0': levels}, 0))
  variables = jax.tree.map(
      lambda x: 0.2 * draws.standard_normal(x.shape).astype(np.float32), shapes)
  return head, variables, levels


def maker_of(student, teacher, channels=8, convs=3):
  """Inputs of a pair as a function of what it returns too: variables and pyramid of the student,
  variables of the teacher."""
  ours, variables, levels = small(student, channels, convs=convs)
  theirs, teacher_variables, given = small(teacher, seed=1, convs=convs)

  def make(variables, levels, teacher_variables):
    taps = taps_of(ours, variables, levels)
    _, (targets, _) = heads.HEADS[student](3).loss(taps, TRUTH)
    return distillers.DistillInputs(
        student=taps, targets=targets, rng=jax.random.key(0),
        teacher_head=step.teacher_head(Head(theirs), teacher_variables),
        teacher=taps_of(theirs, teacher_variables, given))
  return make, (variables, levels, teacher_variables)


TRUTH = truth_of((np.array([[4, 4, 40, 50], [20, 10, 60, 60]], np.float32), [0, 2]))


def run(method, student, teacher):
  """Loss, metrics and the gradient to the student's pyramid, of heads of one convolution."""
  make, (variables, levels, teacher_variables) = maker_of(student, teacher, convs=1)

  def loss(levels, variables, teacher_variables):
    inputs = only_required(method, make(variables, levels, teacher_variables))
    value, (_, metrics) = method.loss(method.init(jax.random.key(0), inputs), inputs)
    return value, metrics

  return jax.device_get(jax.jit(jax.value_and_grad(loss, has_aux=True))(
      levels, variables, teacher_variables))


@functools.cache
def make_shapes(student, teacher, channels=8):
  make, arguments = maker_of(student, teacher, channels)
  return jax.eval_shape(make, *arguments)


@pytest.mark.parametrize('student, teacher', [
    ('gfl', 'gfl'), *[pytest.param(*pair, marks=pytest.mark.slow) for pair in (
        ('atss', 'atss'), ('gfl', 'atss'), ('gfl', 'retinanet'), ('retinanet', 'retinanet'),
        ('fcos', 'fcos'))]])
def test_pairs_of_heads_learn_also_from_levels_of_one_element(student, teacher):
  method = distillers.crosskd(
      layer=1, teacher_head=None if student == teacher else teacher)
  (value, metrics), gradients = run(method, student, teacher)
  assert np.isfinite(value) and value > 0
  np.testing.assert_allclose(value, sum(metrics.values()), rtol=1e-5)
  assert set(metrics) == {'cls', 'boxes'} | ({'centerness'} if teacher == 'atss' else set())
  assert all(metric > 0 for metric in metrics.values())
  assert all(np.isfinite(gradient).all() for gradient in gradients)
  assert np.any(gradients[0]) and not np.any(gradients[-1])  # a map of one element, of one image


@pytest.mark.parametrize('head', ['gfl', 'atss'])
def test_the_terms_are_those_of_what_the_teachers_head_makes_of_the_students_towers(head):
  rng = np.random.default_rng(0)
  numbers = {'reg': 4, 'centerness': 1} if head == 'atss' else {}
  taps = [toys.detector_taps(2, 4, rng, numbers) for _ in range(2)]
  targets = toys.detector_targets(toys.detector_masks(2, rng))
  if head == 'atss':
    targets['centerness_normalizer'] = np.float32(3)
  method, of_teacher = distillers.crosskd(), toys.detector_head(4, numbers)
  inputs = only_required(method, distillers.DistillInputs(
      *taps, targets=targets, rng=jax.random.key(0), teacher_head=of_teacher))
  _, (_, terms) = method.loss(method.init(inputs.rng, inputs), inputs)
  towers = ('cls_tower_3', 'reg_tower_3')
  crossed = of_teacher({name: [losses.cross_head_input(*pair, layer=3) for pair in zip(
      *(own[name] for own in taps), strict=True)] for name in towers}, 3)
  flat = lambda maps: np.concatenate([x.reshape(2, -1, x.shape[-1]) for x in maps], axis=1)
  ours, theirs = ({name: flat(own[name]) for name in ('cls', 'reg')} for own in (crossed, taps[1]))
  wanted = {'cls': losses.cross_head_classification(
      ours['cls'], theirs['cls'], weights=targets['counts'], normalizer=5.0)}
  scores = losses.score_weights(theirs['cls'], targets['counts'])
  if head == 'gfl':
    wanted['boxes'] = 4 * losses.cross_head_distribution(
        ours['reg'], theirs['reg'], weights=scores)
  else:
    decoded = [losses.decode_deltas(targets['priors'], x['reg'], stds=(0.1, 0.1, 0.2, 0.2))
               for x in (ours, theirs)]
    wanted['boxes'] = losses.giou(*decoded, weights=scores, normalizer=5.0)
    own = of_teacher({name: taps[1][name] for name in towers}, 3)['centerness']
    wanted['centerness'] = losses.binary_cross_entropy(
        flat(crossed['centerness'])[..., 0], jax.nn.sigmoid(flat(own)[..., 0]),
        weights=targets['positive'], normalizer=5.0)
  assert terms.keys() == wanted.keys()
  for name, value in wanted.items():
    np.testing.assert_allclose(terms[name], value, rtol=1e-4, err_msg=name)


def shaped(method, inputs):
  """The state and the loss of a method, in shapes."""
  inputs = only_required(method, inputs)
  state = jax.eval_shape(method.init, jax.random.key(0), inputs)
  loss, _ = jax.eval_shape(method.loss, state, inputs)
  assert loss.shape == () and loss.dtype == np.float32
  return state


def test_towers_of_another_width_need_a_projection():
  inputs = make_shapes('gfl', 'gfl', 16)
  with pytest.raises(UserError, match=(
      'cls_tower_3 of the student is 16 wide and that of the teacher 8. Set projection=True')):
    shaped(distillers.crosskd(), inputs)
  params = shaped(distillers.crosskd(projection=True), inputs).params
  kernel = (1, 1, 16, 8)
  assert {branch: params[branch]['kernel'].shape for branch in params} == {
      'cls': kernel, 'reg': kernel}


def test_the_projections_of_both_branches_start_unlike():
  method = distillers.crosskd(projection=True)
  params = method.init(
      jax.random.key(0), only_required(method, make_shapes('gfl', 'gfl', 16))).params
  assert not np.any(params['cls']['kernel'] == params['reg']['kernel'])


@pytest.mark.parametrize('layer', range(4))
def test_any_layer_may_be_the_last_of_the_student(layer):
  method = distillers.crosskd(layer=layer)
  assert method.requires.student == (f'cls_tower_{layer}', f'reg_tower_{layer}', 'cls')
  shaped(method, make_shapes('gfl', 'gfl'))


@pytest.mark.parametrize('head, layers', [
    ('gfl', (3,)), ('retinanet', (3,)), ('fcos', (2,)), ('atss', (3,)), (None, (2, 3))])
def test_the_last_layer_of_the_student_is_the_official_one_of_the_teachers_head(head, layers):
  towers = tuple(f'{branch}_tower_{layer}' for branch in ('cls', 'reg') for layer in layers)
  requires = distillers.crosskd(teacher_head=head).requires
  assert requires.student == (*towers, 'cls') and requires.teacher == (*towers, 'cls', 'reg')


def test_pyramids_of_other_strides_are_refused():
  inputs = make_shapes('gfl', 'gfl')
  coarser = {name: levels[1:] for name, levels in inputs.teacher.items()
             if name.endswith(('_tower_3', '_tower_2', 'cls', 'reg'))}
  with pytest.raises(UserError, match=r'levels of the student are \[\(8, 8\), .*expected the same'):
    shaped(distillers.crosskd(), dataclasses.replace(inputs, teacher=coarser))


def test_a_layer_that_there_is_not_and_unknown_names_are_refused():
  with pytest.raises(UserError, match="no tap 'cls_tower_9'"):
    shaped(distillers.crosskd(layer=9), make_shapes('gfl', 'gfl'))
  with pytest.raises(UserError, match='layer=-1; expected'):
    distillers.crosskd(layer=-1)
  with pytest.raises(UserError, match="Unknown teacher_head of crosskd: 'gfi'.*'gfl'"):
    distillers.crosskd(teacher_head='gfi')


@pytest.mark.parametrize('student, teacher, named', [
    ('gfl', 'retinanet', None), ('retinanet', 'gfl', None), ('gfl', 'atss', None),
    ('gfl', 'gfl', 'fcos'), ('atss', 'retinanet', 'atss')])
@pytest.mark.parametrize('factory', [distillers.crosskd, distillers.prediction_mimicking])
def test_a_teacher_of_another_head_must_be_named(factory, student, teacher, named):
  with pytest.raises(UserError, match=r'Set the field teacher_head of this term'):
    shaped(factory(teacher_head=named), make_shapes(student, teacher))


def test_models_and_tasks_without_what_is_read_are_refused_by_name():
  inputs = make_shapes('gfl', 'gfl')
  method = distillers.crosskd()
  for fields, message in (({'teacher_head': None}, 'this teacher offers none'),
                          ({'targets': {}}, "task has no target 'counts'"),
                          ({'student': {'logits': 0}}, "student has no tap 'cls_tower_2'")):
    with pytest.raises(UserError, match=message):
      distillers.check_requires(method.requires, dataclasses.replace(inputs, **fields))


@pytest.mark.parametrize('student, teacher', [
    ('gfl', 'atss'), ('gfl', 'retinanet'), ('retinanet', 'gfl'), ('fcos', 'gfl'), ('gfl', 'fcos')])
def test_pairs_of_unlike_heads_have_a_loss_normalized_as_the_teachers(
    student, teacher, monkeypatch):
  of, original = [], dense_predictions.normalizer_of
  monkeypatch.setattr(dense_predictions, 'normalizer_of', lambda head, targets: (
      of.append(head), original(head, targets))[1])
  shaped(distillers.crosskd(teacher_head=teacher), make_shapes(student, teacher))
  assert of == [teacher]
