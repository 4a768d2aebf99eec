"""Sides that the host decides: input pipeline, evaluation, prediction, and how programs start."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

from experiments.benchmarks import inputs
from experiments.benchmarks.worker import Work

_EPOCH = 256  # images of a run of the pipeline
_CROP, _BATCH = (360, 360), 8
_SIZES = [(96, 128), (96, 160), (112, 144), (128, 128), (128, 176), (144, 208)]
_EACH = 8  # images of every size
_PHOTOGRAPH, _PHOTOGRAPHS = (360, 480), 16

# Starts a program and says how long its parts took; durations are those that jax reports.
_START = """
import json, sys, time
start = time.perf_counter()
import jax
spent = {'trace': 0.0, 'lower': 0.0, 'compile': 0.0}
events = {'jaxpr_trace_duration': 'trace', 'jaxpr_to_mlir_module_duration': 'lower',
          'backend_compile_duration': 'compile'}
def listen(event, seconds, **_):
  name = events.get(event.rpartition('/')[2])
  if name:
    spent[name] += seconds
jax.monitoring.register_event_duration_secs_listener(listen)
import importlib
program = importlib.import_module('kdseg_jax.' + sys.argv[1]).PROGRAM
spent['import'] = time.perf_counter() - start
try:
  program.run(sys.argv[1:])
except SystemExit as ended:
  assert not ended.code, ended.code
spent['total'] = time.perf_counter() - start
print('SPENT' + json.dumps(spent))
"""
_PROGRAMS = {
    'quickstart': ('quickstart', '--runlocal'),
    'runlocal': ('train', '--config=quickstart:runlocal'),
}


def create(name, args) -> Work:
  """`input_<ours|opencv>`, `evaluation_*`, `prediction_*`, `start_<program>_<cold|warm>`."""
  kind, _, rest = name.partition('_')
  if kind == 'start':
    return start(*rest.rsplit('_', 1))
  return {'input': read, 'evaluation': evaluate, 'prediction': predict}[kind](rest, args)


def read(side, args) -> Work:
  """Crops of CamVid with their labels, mirrored at random, in batches; `--camvid` names it."""
  from kdseg_jax import data
  from kdseg_jax.data import augmentation, camvid, pipeline
  from kdseg_jax.tasks.segmentation import SegmentationTask

  if side == 'opencv':
    pairs, _ = camvid.find_pairs(camvid.find_root(args.data), 'train')
    return Work(lambda: _plain_loop(pairs), _EPOCH, warm=1)
  source = data.create('camvid', 'train', root=args.data)
  crop = augmentation.Augmentation(
      crop=_CROP, scale=None, flip=True, fields=SegmentationTask(11).fields)

  # One stream, as in training: what is read ahead at the end of a call is of the next.
  batches = pipeline.train_batches(source, batch_size=_BATCH, seed=0, augmentation=crop)

  def run():
    for _ in range(_EPOCH // _BATCH):
      next(batches)

  return Work(run, _EPOCH, warm=1)


def _plain_loop(pairs):
  """The same with OpenCV alone, as one would write it for one thread."""
  import cv2

  rng = np.random.default_rng(0)
  images, labels = [], []
  for index in rng.permutation(len(pairs))[:_EPOCH]:
    image_path, label_path = pairs[index].image, pairs[index].label
    image = cv2.cvtColor(cv2.imread(str(image_path)), cv2.COLOR_BGR2RGB)
    label = cv2.imread(str(label_path), cv2.IMREAD_UNCHANGED)
    top, left = (rng.integers(0, have - want + 1) for have, want in zip(label.shape, _CROP))
    image, label = (x[top:top + _CROP[0], left:left + _CROP[1]] for x in (image, label))
    if rng.uniform() < 0.5:
      image, label = image[:, ::-1], label[:, ::-1]
    images.append(image)
    labels.append(label)
    if len(images) == _BATCH:
      np.stack(images), np.stack(labels)
      images, labels = [], []


def _model():
  """A student of the built-in data with random weights."""
  import jax

  from experiments.benchmarks import our_steps
  from kdseg_jax.inference.model import Model

  what = inputs.Step('forward', 'resnet18', (1, 128, 128), 'float32')
  module, variables = our_steps.untrained(what, inputs.batch(what.size)[0])
  classes = tuple(f'class {i}' for i in range(11))
  config = our_steps.create_config('none', what)
  config.data.size = ()
  palette = tuple((20 * i, 255 - 20 * i, 128) for i in range(11))
  return Model(module, jax.device_put(variables), classes, config, palette)


def _forward(model):
  """The model alone, compiled."""
  import jax

  return jax.jit(lambda variables, image: model.module.apply(variables, image)[0])


def evaluate(side, args) -> Work:
  """A data set of many sizes, against the logits of the same batches alone."""
  del args
  import jax

  from kdseg_jax import parallel
  from kdseg_jax.inference.evaluation import Evaluator
  from kdseg_jax.tasks.segmentation import SegmentationTask

  rng, model = np.random.default_rng(0), _model()
  images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in _SIZES for _ in range(_EACH)]
  if side == 'forward':
    batches, forward = [np.stack(images[i:i + _EACH]) for i in range(0, len(images), _EACH)], (
        _forward(model))
    return Work(lambda: [jax.block_until_ready(forward(model.variables, batch))
                         for batch in batches], len(images))
  source = [{'image': image, 'label': np.zeros(image.shape[:2], np.uint8)} for image in images]
  evaluator = Evaluator(SegmentationTask(11), model.module, parallel.create_mesh(),
                        batch_size=_EACH)
  return Work(lambda: evaluator(model.variables, source), len(images))


def predict(side, args) -> Work:
  """A folder of photographs as `predict` does, labels and overlays written, or logits alone."""
  del args
  import jax

  from kdseg_jax.data import files
  from kdseg_jax.report import presenters
  from kdseg_jax.report.base import Example

  model, folder = _model(), pathlib.Path(tempfile.mkdtemp())
  rng = np.random.default_rng(0)
  smooth = np.kron(rng.integers(0, 256, (12, 16, 3), np.uint8), np.ones((30, 30, 1), np.uint8))
  if side == 'forward':
    forward = _forward(model)
    return Work(lambda: [jax.block_until_ready(forward(model.variables, smooth[None]))
                         for _ in range(_PHOTOGRAPHS)], _PHOTOGRAPHS)
  assert smooth.shape[:2] == _PHOTOGRAPH
  paths = [folder / 'photographs' / f'{i}.png' for i in range(_PHOTOGRAPHS)]
  for path in paths:
    files.write_png(path, smooth)

  def run():
    writer = presenters.create('segmentation', model).writer(
        str(folder), main='model', titles={'model': 'model'}, strips=False, legend=True)
    for path in paths:
      example = Example(path.name, str(path), files.read_image(path), {})
      writer.add(example, {'model': model.predict(example.image, scores=False)[0]})
    writer.close()

  return Work(run, _PHOTOGRAPHS)


def start(name, cache) -> Work:
  """A program from its first import to its end, two steps a run; its cache empty or filled."""
  kept = tempfile.mkdtemp()
  command = [sys.executable, '-c', _START, *_PROGRAMS[name]]
  environment = {key: value for key, value in os.environ.items()
                 if not key.startswith(('JAX_COMPILATION_CACHE', 'JAX_PERSISTENT_CACHE'))}

  def run():
    with tempfile.TemporaryDirectory() as folder:
      home = folder if cache == 'cold' else kept
      done = subprocess.run(
          [*command, f'--workdir={folder}/run'], env=environment | {'XDG_CACHE_HOME': home},
          text=True, capture_output=True)
    if done.returncode:
      raise RuntimeError(done.stderr.splitlines()[-1])
    return json.loads(done.stdout.partition('SPENT')[2].splitlines()[0])

  return Work(run, facts=lambda phases: {'phases': phases}, warm=1 + (cache == 'warm'),
              in_a_loop=False)
