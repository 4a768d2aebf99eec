"""Detectors out: boxes and probabilities of all anchors, and back to what the model detects."""

import dataclasses
import json

import numpy as np
import pytest

import kdseg_jax
from kdseg_jax import default_config, inference, predict
from kdseg_jax.data import files
from kdseg_jax.errors import UserError
from kdseg_jax.interop import exporting
from kdseg_jax.interop.exporting import card, graph, manifest
from kdseg_jax.tasks.detection import rows
from tests import runs, workdirs

TINY = 'tests.tasks.tiny_detector:Tiny'
CANVAS = (64, 96)
OPTIONS = exporting.Options('stablehlo', platforms=('cpu',))
ALLOWED = ('tests.tasks',)


def config_of(head, name=TINY, **fields):
  config = default_config.detection()
  if name == TINY:
    default_config.set_name(config, 'student.name', name)
    config.student.options.head = config.task.head = head
  else:
    config.student.name = name
  config.eval.canvas = CANVAS
  config.update_from_flattened_dict(fields)
  return config


def load(path):
  return kdseg_jax.load(path, allow_imports=ALLOWED)


def image_of(height, width):
  return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope='module', params=['gfl', 'fcos', 'retinanet'])
def detector(request, tmp_path_factory):
  """The head, and a folder with a work directory and its export."""
  base = tmp_path_factory.mktemp(request.param)
  workdirs.save(base / 'run', config_of(request.param))
  exporting.export(load(base / 'run'), str(base / 'out'), OPTIONS)
  return request.param, base


def test_an_export_says_what_it_computes(detector):
  head, base = detector
  description = json.loads((base / 'out/export.json').read_text())
  assert description['input']['size'] == description['canvas'] == list(CANVAS)
  assert description['input']['batch'] is None and description['task'] == 'detection'
  output = description['output']
  assert output['head'] == head and output['suppression'] is None
  assert output['columns'] == ['x1', 'y1', 'x2', 'y2', 'factor', *workdirs.CLASSES]
  assert output['shape'] == ['batch', 'anchors', 8] and output['name'] == 'predictions'
  text = (base / 'out' / card.FILE).read_text()
  for part in ('pipeline_tag: object-detection', 'Non-maximum suppression is not in it',
               'to fit into 64x96', 'scores = predictions[..., 4:5] * predictions[..., 5:]'):
    assert part in text


def test_the_card_says_that_upright_images_had_a_canvas_of_their_own(tmp_path):
  workdirs.save(tmp_path / 'run', config_of('gfl', **{'data.by_orientation': True}))
  exporting.export(load(tmp_path / 'run'), str(tmp_path / 'out'), OPTIONS)
  text = (tmp_path / 'out' / card.FILE).read_text()
  assert 'higher than wide were fitted into 96x64: this export, of one size, shows them' in text
  assert '--size=96,64' in text


def test_it_predicts_what_the_model_does(detector):
  head, base = detector
  live, exported = load(base / 'run'), kdseg_jax.load(base / 'out')
  images = [image_of(*CANVAS), image_of(128, 192), image_of(40, 90)]
  wanted = live.predict(images)
  for i, (found, want) in enumerate(zip(exported.predict(images, batch_size=2), wanted,
                                        strict=True)):
    assert isinstance(found, inference.Detections) and len(want.scores) > 3
    if i < 2:  # without padding
      np.testing.assert_array_equal(found.classes, want.classes)
      np.testing.assert_allclose(found.scores, want.scores, rtol=1e-4)
      np.testing.assert_allclose(found.boxes, want.boxes, atol=1e-2)
    height, width = images[i].shape[:2]
    assert found.boxes.min() >= 0 and (found.boxes <= np.add([width, height] * 2, 1e-3)).all()
  found, taps = exported.apply(images[0][None])
  anchors = {'retinanet': 9}.get(head, 1) * (8 * 12 + 4 * 6 + 2 * 3 + 2 + 1)
  assert found.shape == taps['predictions'].shape == (1, anchors, 8)
  assert ((found[..., rows.BOX] == 1).all()) == (head != 'fcos')


@pytest.mark.parametrize('sides, height, width', [([], 43, 96), ([32, 48], 21, 48)])
def test_images_are_fitted_and_padded_with_the_mean(detector, sides, height, width, monkeypatch):
  _, base = detector
  views = inference.Inference(canvas=CANVAS, sides=tuple(sides))
  live = dataclasses.replace(load(base / 'run'), views=views)
  assert manifest.describe(live, 'stablehlo', None)['sides'] == (sides or None)
  exported, shown = kdseg_jax.load(base / 'out'), []
  exported.description['sides'] = sides or None
  compute = exported._jitted
  monkeypatch.setattr(
      exported, '_jitted', lambda images: shown.append(np.asarray(images)) or compute(images))
  exported.predict(np.full((40, 90, 3), 7, np.uint8))
  [[image]] = shown
  assert image.shape == (*CANVAS, 3) and (image[:height, :width] == 7).all()
  mean = np.round(exported.description['preprocessing']['mean'])
  assert (image[height:] == mean).all() and (image[:, width:] == mean).all()


def test_boxes_and_probabilities_are_compared_by_themselves(detector):
  _, base = detector
  model = load(base / 'run')
  good = graph.compiled(graph.outputs_of(model))
  other = {name: lambda images, columns=columns: good(images).at[..., columns].multiply(1.001)
           for name, columns in (('boxes', slice(4)), ('probabilities', slice(5, None)))}
  shapes = [(1, *CANVAS)]
  assert graph.compare(model, [good], shapes).is_none
  boxes, probabilities = (graph.compare(model, [function], shapes) for function in other.values())
  assert not boxes.is_none and not probabilities.is_none
  assert boxes.largest > 10 * probabilities.largest


def test_predict_writes_boxes(detector, tmp_path, capsys):
  _, base = detector
  files.write_png(tmp_path / 'a.png', image_of(*CANVAS))
  status, text = runs.run_here(
      capsys, predict.PROGRAM, f'--exported={base / "out"}', f'--output={tmp_path / "found"}',
      tmp_path / 'a.png')
  assert not status and '1 images' in text, text
  (found,) = json.loads((tmp_path / 'found/predictions.json').read_text()).values()
  [want] = load(base / 'run').predict(image_of(*CANVAS))
  np.testing.assert_allclose([row['score'] for row in found], want.scores, rtol=1e-4)
  assert (tmp_path / 'found/pictures/a.png').exists()


def test_what_has_no_names_of_pytorch_or_other_tasks_are_refused(detector, tmp_path, monkeypatch):
  _, base = detector
  model = load(base / 'run')
  with pytest.raises(UserError, match='no naming scheme knows it(.|\n)*stablehlo or onnx instead'):
    exporting.export(model, str(tmp_path / 'out'), exporting.Options('safetensors'))
  monkeypatch.setattr(type(model.task), 'name', 'mylab.tasks:Own')
  with pytest.raises(UserError, match='the task of this one is mylab.tasks:Own'):
    exporting.export(model, str(tmp_path / 'out'), OPTIONS)
  assert not list(tmp_path.iterdir())


def test_without_a_canvas_its_size_must_be_given(tmp_path):
  workdirs.save(tmp_path / 'run', config_of('gfl', **{'eval.canvas': ()}))
  model = load(tmp_path / 'run')
  with pytest.raises(UserError, match='names no size of images .*give --size='):
    exporting.export(model, str(tmp_path / 'out'), OPTIONS)
  assert not (tmp_path / 'out').exists()
  exporting.export(model, str(tmp_path / 'out'), OPTIONS._replace(size=CANVAS))
  assert kdseg_jax.load(tmp_path / 'out').predict(image_of(*CANVAS))


@pytest.mark.slow
def test_a_whole_detector_by_mmdetections_names_and_back(tmp_path, capsys):
  from kdseg_jax import export
  from kdseg_jax.interop import import_torch
  config = config_of('atss', 'atss_resnet18', **{
      'student.width': 0.125, 'student.stacked_convs': 1, 'eval.canvas': (64, 64)})
  workdirs.save(tmp_path / 'run', config)
  for kind in ('safetensors', 'stablehlo'):
    status, text = runs.run_here(
        capsys, export.PROGRAM, f'--workdir={tmp_path / "run"}', f'--format={kind}',
        f'--output={tmp_path / kind}', *['--platforms=cpu'] * (kind == 'stablehlo'))
    assert not status, text
    assert 'before suppression' in text and 'of predictions with a standard deviation' in text
  status, text = runs.run_here(
      capsys, import_torch.PROGRAM, '--model=atss_resnet18', f'--workdir={tmp_path / "back"}',
      f'--source={tmp_path / "safetensors/model.safetensors"}')
  assert not status, text
  image = image_of(64, 64)
  want, back, found = (kdseg_jax.load(tmp_path / name).predict(image)[0]
                       for name in ('run', 'back', 'stablehlo'))
  assert len(want.scores)
  for other in (back, found):
    np.testing.assert_array_equal(other.classes, want.classes)
    np.testing.assert_allclose(other.boxes, want.boxes, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize('head', ['gfl', 'fcos', 'atss', 'retinanet'])
def test_onnxruntime_computes_boxes_and_probabilities(head, tmp_path):
  pytest.importorskip('jax2onnx')
  onnxruntime = pytest.importorskip('onnxruntime')
  workdirs.save(tmp_path / 'run', config_of(head, f'{head}_resnet18', **{
      'student.width': 0.125, 'student.stacked_convs': 1, 'eval.canvas': (64, 64)}),
      factor=0.5 if head == 'retinanet' else 1)  # which has no norms behind its backbone
  model = load(tmp_path / 'run')
  description = exporting.export(model, str(tmp_path / 'out'), exporting.Options('onnx'))
  session = onnxruntime.InferenceSession(str(tmp_path / 'out/model.onnx'))
  count = description['input']['batch'] or 3
  images = np.stack([image_of(64, 64)] * count)
  predictions, = session.run(['predictions'], {'images': images})
  wanted = graph.compiled(graph.outputs_of(model))(images)
  np.testing.assert_allclose(predictions[..., :4], wanted[..., :4], atol=1e-2)
  np.testing.assert_allclose(predictions[..., 4:], wanted[..., 4:], atol=1e-4)
