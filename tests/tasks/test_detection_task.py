"""Detection as a task: loss, boxes in pixels of the image, and AP."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdseg_jax import data, default_config, parallel, tasks
from kdseg_jax.data import boxed, fitted
from kdseg_jax.errors import UserError
from kdseg_jax.inference import evaluation
from kdseg_jax.inference.views import Inference, create_inference
from kdseg_jax.report import presenters
from kdseg_jax.tasks.detection import task
from kdseg_jax.training import experiment, programs, run
from tests.data import boxed_sets
from tests.tasks.tiny_detector import Mixed, Tiny, config_of

HEADS = tuple(task.HEADS)


def batch_of(source, indices, fields):
  examples = _Listed(source[index] for index in indices)
  return next(iter(evaluation.pipeline.evaluation_batches(
      examples, fields=fields, batch_size=len(examples))))


class _Listed(list):
  """Examples as a source."""

  classes, palette = ('a', 'b'), None


def test_the_head_is_that_of_the_models_name():
  config = default_config.detection()
  for head in HEADS:
    config.student.name = f'{head}_resnet18'
    assert tasks.of(config, 3).head == head
  config.task.head = 'gfl'
  with pytest.raises(UserError, match='the head of config.student.name=atss_resnet18 is atss'):
    tasks.of(config, 3)
  config.student.name = 'deeplabv3_resnet18'
  with pytest.raises(UserError, match='deeplabv3_resnet18 is no detector'):
    tasks.of(config, 3)
  config.student.name, config.task.head = 'tests.tasks.tiny_detector:Tiny', ''
  with pytest.raises(UserError, match='set config.task.head'):
    tasks.of(config, 3)
  with pytest.raises(UserError, match="config.task.head: 'gfo'"):
    tasks.create('detection', 3, head='gfo')
  with pytest.raises(UserError, match='config.task.head is empty'):
    tasks.create('detection', 3).loss({}, {})


@pytest.mark.parametrize('head', HEADS)
def test_a_model_tells_which_head_it_has(head):
  from kdseg_jax import models
  model = models.create(f'{head}_resnet18', 3)
  assert tasks.create('detection', 3, head='gfl').dense_head(model) == task.HEADS[head](3)


def test_fcos_has_the_options_of_its_config_and_the_other_heads_have_none():
  from kdseg_jax import models
  config = default_config.detection()
  config.student.name = 'fcos_resnet18'
  assert tasks.of(config, 3).dense_head() == task.HEADS['fcos'](3)
  config.task.update(box_loss='giou', center_sampling=True)
  own = tasks.of(config, 3)
  assert own.dense_head() == task.HEADS['fcos'](3, box_loss='giou', center_sampling=True)
  assert own.dense_head(models.create('gfl_resnet18', 3)) == task.HEADS['gfl'](3)  # a teacher
  config.student.name = 'gfl_resnet18'
  with pytest.raises(UserError, match='are of FCOS, and the head is gfl'):
    tasks.of(config, 3)
  with pytest.raises(UserError, match="config.task.box_loss: 'gio'. Did you mean 'giou'"):
    tasks.create('detection', 3, box_loss='gio')


def test_crowds_and_padding_are_not_learned():
  config = config_of()
  detection = tasks.of(config, 10)
  batch = batch_of(data.SceneBoxes('val', size=(64, 64), length=4), range(4), detection.fields)
  taps = jax.jit(lambda image: Tiny(10).init_with_output(
      jax.random.key(0), image)[0][1])(batch['image'])
  loss_of = jax.jit(detection.loss)
  loss, (targets, metrics) = loss_of(taps, batch)
  assert float(metrics['positives']) > 0 and targets['counts'].all()
  assert {'positive', 'valuable', 'assigned_classes', 'normalizer'} <= targets.keys()
  padded = batch | {'mask': batch['mask'] & (np.arange(64) < 20)[:, None]}
  counts = loss_of(taps, padded)[1][0]['counts'][:, :64].reshape(4, 8, 8)
  assert counts[:, :4].all() and not counts[:, 4:].any()  # P3, up to 32 of 64 rows
  last = int((batch['classes'][0] >= 0).sum()) - 1
  crowd, gone = ({**batch, name: batch[name].copy()} for name in ('crowd', 'classes'))
  crowd['crowd'][0, last], gone['classes'][0, last] = True, -1
  without = loss_of(taps, gone)[0]
  assert float(loss_of(taps, crowd)[0]) == float(without) != float(loss)


def test_a_step_is_the_same_on_eight_devices():
  built = experiment.create_experiment(config_of())
  batch = next(run.training_batches(built, 'train', start=0))
  found = []
  for count in (1, 8):
    part = built._replace(mesh=parallel.create_mesh(jax.devices()[:count]))
    state, metrics = programs.train_step_of(part)(experiment.initial_state(part), batch)
    found.append(jax.device_get((state.params, metrics)))
  assert found[0][1]['loss'] > 0
  for one, eight in zip(*map(jax.tree.leaves, found), strict=True):
    np.testing.assert_allclose(eight, one, rtol=2e-4, atol=2e-5)


def test_metrics_are_the_same_on_eight_devices_and_sizes_compile_once():
  detection, model, source = tasks.of(config_of(), 10), Tiny(10), Mixed()
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
  traces, score = [], type(detection).scorer
  class Counting(type(detection)):

    def scorer(self, model, views):
      detect = score(self, model, views)
      return lambda variables, batch: (traces.append(1), detect(variables, batch))[1]

  counting = Counting(10, 'gfl', 6)
  found = []
  for count, size in ((1, 8), (8, 8), (1, 2)):
    traces.clear()
    evaluator = evaluation.Evaluator(
        counting, model, parallel.create_mesh(jax.devices()[:count]), batch_size=size)
    results = evaluator.accumulate(variables, data.Fitted(source, (64, 64)))
    assert len(traces) == 1
    found.append(results.summarize())
  assert found[0]['images'] == 7 and found[0]['AP'] >= 0
  for other in found[1:]:
    for name, value in found[0].items():
      np.testing.assert_allclose(other[name], value, atol=1e-6, err_msg=name)


def test_predictions_are_in_pixels_of_the_image_and_compile_once():
  views = Inference(canvas=(64, 64))
  source, model, traces = Mixed(), Tiny(10), []

  class Counted:

    def apply(self, *arguments, **options):
      traces.append(1)
      return model.apply(*arguments, **options)

  detection = tasks.of(config_of(), 10)
  variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
  detect = detection.predictor(Counted(), views)
  placed = data.Fitted(source, (64, 64))
  score = jax.jit(detection.scorer(model, views))
  for index in range(3):
    image = source[index]['image']
    [found] = detect(variables, image[None], scores=True)
    batch = batch_of(placed, [index], detection.fields)
    want = jax.tree.map(lambda x: np.asarray(x)[0], score(variables, batch))
    kept, factors = want.valid, np.tile(placed[index]['scale'], 2)
    assert kept.any() and len(found.boxes) == kept.sum()
    np.testing.assert_allclose(found.boxes * factors, want.boxes[kept], atol=1e-3)
    np.testing.assert_array_equal(found.classes, want.classes[kept])
    height, width = image.shape[:2]
    assert found.boxes.min() >= 0 and (found.boxes <= np.add([width, height] * 2, 1e-3)).all()
    assert fitted.fitted_size((height, width), (64, 64)) == tuple(
        round(side * scale) for side, scale in zip((height, width), placed[index]['scale'][::-1]))
  assert len(traces) == 1


def test_predictions_without_a_canvas_are_at_the_sides_and_padded():
  image, detection = Mixed()[1]['image'], tasks.of(config_of(), 10)  # 48x80
  seen = []

  class Spy:

    def apply(self, variables, image, mask, index):
      seen.append((image.shape, mask.shape))
      return Tiny(10).apply(variables, image, mask=mask, index=index)

  variables = jax.jit(Tiny(10).init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
  detect = detection.predictor(Spy(), Inference(sides=(30, 60)), multiple=32)
  [found] = detect(variables, image[None], scores=True)
  assert seen == [((1, 32, 64, 3), (1, 32, 64))]  # 30x50
  assert (found.boxes <= [80, 48] * 2).all()


def test_a_canvas_is_padded_as_it_is_evaluated():
  images, views = np.zeros((1, 60, 90, 3), np.uint8), Inference(canvas=(100, 150))
  batch, _ = task.seen(images, views, multiple=32)
  fitted_batch = next(evaluation.pipeline.evaluation_batches(
      data.Fitted(Mixed(), (100, 150)), batch_size=1, multiple=32,
      fields=tasks.of(config_of(), 10).fields))
  assert batch['image'].shape == fitted_batch['image'].shape == (1, 128, 160, 3)


def test_a_canvas_is_turned_for_the_prediction_as_for_the_evaluation():
  views = Inference(canvas=(64, 96), sides=(40, 80), by_orientation=True)
  placed = data.Fitted(Mixed(), (64, 96), (40, 80), by_orientation=True)
  shapes = set()
  for index, example in enumerate(Mixed()):
    batch, scale = task.seen(example['image'][None], views)
    shapes.add(batch['image'].shape[1:3])
    for name in ('image', 'mask'):
      np.testing.assert_array_equal(batch[name][0], placed[index][name])
    np.testing.assert_allclose(scale, placed[index]['scale'])
  assert shapes == {(64, 96), (96, 64)}


def test_an_image_is_resized_for_the_prediction_as_by_its_source():
  example, size = Mixed()[1], (20, 90)
  arrays = {name: example[name] for name in ('boxes', 'classes', 'crowd', 'area')}
  resized = _Listed([boxed.example(example['image'], arrays, 'a', size)])
  placed = data.Fitted(resized, (64, 64))[0]
  batch, scale = task.seen(example['image'][None], Inference(canvas=(64, 64)), size)
  np.testing.assert_array_equal(batch['image'][0], placed['image'])
  np.testing.assert_allclose(scale, placed['scale'])


def test_boxes_that_are_scaled_back_stay_in_the_image():
  """A corner at the edge of what was seen comes back up to 6e-5 pixels beyond it."""
  for width in range(20, 700):
    scale = np.float32([min(320 / width, 256 / 480)] * 2)
    shown = np.floor(np.float32([width, 480]) * scale + 0.5)
    found = task.suppression.Detections(
        np.float32([[[0, 0, *shown]]]), np.float32([[0.5]]), np.int32([[0]]))
    scale = np.float32([shown[0] / width, shown[1] / 480])
    [back] = task.of_images(found, scale, (480, width))
    assert (back.boxes <= np.float32([width, 480] * 2)).all()


def test_perfect_boxes_score_one_in_any_order_of_batches_and_crowds_do_not_count():
  detection = tasks.create('detection', 10, head='gfl', max_boxes=6)
  source = data.Fitted(Mixed(), (128, 128))
  def outputs(indices):
    batch = batch_of(source, indices, detection.fields)
    found = task.suppression.Detections(
        boxes=batch['boxes'], scores=np.where(batch['classes'] >= 0, 0.9, 0),
        classes=batch['classes'])
    made = detection.outputs(found, batch)
    examples = {name: np.asarray(value) for name, value in made.examples.items()}
    return made._replace(examples=examples | {'index': np.array(indices)})
  parts, metrics = [outputs([0, 1, 2]), outputs([3, 4])], []
  for order in (parts, parts[::-1]):
    found = detection.accumulator()
    for part in order:
      found.add(part)
    metrics.append(found.summarize())
  assert metrics[0]['AP'] == metrics[0]['AP50'] == 1.0 and metrics[0]['images'] == 5
  np.testing.assert_equal(*metrics)
  first = found.results._images[0]
  np.testing.assert_allclose(first.boxes, source._source[0]['boxes'], atol=1e-4)


@pytest.mark.parametrize('views', [{'flip': True}, {'window': (32, 32)}, {'scales': (0.5, 1.0)},
                                   {'crop': (32, 32), 'short_side': 36}])
def test_other_views_are_refused(views):
  with pytest.raises(UserError, match='A detector sees whole images only'):
    tasks.create('detection', 3, head='gfl').scorer(Tiny(3), Inference(**views))


def test_a_canvas_is_for_detectors_and_has_no_crop_beside_it():
  for name in ('segmentation', 'classification'):
    for views in ({'canvas': (32, 32)}, {'sides': (32, 32)}):
      with pytest.raises(UserError, match='canvas=.*for detectors'):
        tasks.create(name, 3).scorer(None, Inference(**views))
  for fields in ({'sides': (3, 4)}, {'canvas': (9, 9)}):
    with pytest.raises(UserError, match='no crop beside a canvas or sides'):
      Inference(**fields, crop=(4, 4), short_side=4)
  assert str(Inference(sides=(30, 40))) == 'sides up to 30 and 40'
  config = config_of(**{'eval.canvas': (32, 48), 'eval.sides': (30, 40)})
  assert str(create_inference(config)) == 'fitted into 32x48, sides up to 30 and 40'
  config.data.by_orientation = True
  assert str(create_inference(config)) == (
      'fitted into 32x48, or 48x32 if upright, sides up to 30 and 40')
  config.eval.canvas = ()
  assert not create_inference(config).by_orientation
  with pytest.raises(UserError, match='images with boxes'):
    data.Fitted(_Listed([{'image': np.zeros((8, 8, 3), np.uint8)}]), (32, 32))[0]


def test_what_is_drawn_and_written(tmp_path):
  root = tmp_path / 'voc'
  boxed_sets.voc(root)
  source = data.create('voc_boxes', 'val', root=root)
  presenter = presenters.create('detection', source)
  example, image = source[0], source[0]['image']
  found = task.Detections(example['boxes'], example['classes'],
                          np.linspace(0.9, 0.1, len(example['classes']), dtype=np.float32))
  fields = presenter.fields_of(found)
  one = presenter.comparison(image, {}, {'prediction': fields})
  assert one.shape[0] % image.shape[0] == 0 and one.shape[1] % image.shape[1] == 0
  both = presenter.comparison(image, example, {'a': fields, 'b': fields})
  assert both.shape[1] > 3 * one.shape[1]
  writer = presenter.writer(str(tmp_path / 'out'), main='a', titles={'a': 'A'}, strips=False,
                            legend=True)
  writer.add(types.SimpleNamespace(name='x.png', origin='x', image=image, fields={}), {'a': found})
  assert '1 images' in writer.close() and (tmp_path / 'out/pictures/x.png').exists()
  rows = json.loads((tmp_path / 'out/predictions.json').read_text())['x']
  assert rows[0]['class'] == source.classes[example['classes'][0]]
  assert rows[0]['box'] == example['boxes'][0].tolist()
  metrics = dict.fromkeys(('AP', 'AP50'), 0.5) | {'images': 3}
  assert presenter.summary(metrics) == 'AP 0.5000, AP50 0.5000 on 3 images'
  assert presenter.details(metrics, None)[1] == ('AP50', '0.5000')
