"""Weights of PyTorch as a model of ours, with the config that makes it compute the same."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

import kdseg_jax
from kdseg_jax import config_files, models, names, parallel, paths, tasks
from kdseg_jax.checkpoint import Checkpointer
from kdseg_jax.data import class_names
from kdseg_jax.default_config import run
from kdseg_jax.errors import UserError
from kdseg_jax.inference.model import abstract_variables, create_module, leaves_of_classes
from kdseg_jax.interop import (
  conversion,
  distilled,
  download,
  pretrained,
  schemes,
  state_dicts,
  structure,
)
from kdseg_jax.interop.schemes import Scheme
from kdseg_jax.models.backbones import BACKBONES
from kdseg_jax.models.normalization import Preprocessing

REPORT = 'import.json'
_MARGIN = 32  # of the shorter side over the centre that is evaluated, as 256 and 224


class Request(NamedTuple):
  """What is to be imported.

  Attributes:
    source: a file, an http(s) address, or a name of published weights, see `pretrained`.
    model: of ours; one of `models.NAMES`.
    num_classes: None is the source's.
    allow_head_mismatch: the layers that depend on the number of classes may be drawn anew.
    data: data set whose classes they are, see `class_names.of`; None if unknown.
    scheme: of the names in the source; None is the one that fits.
    student: fields of `config.student` that differ from the scheme's, as `mean`.
  """

  source: str
  model: str
  num_classes: int | None = None
  allow_head_mismatch: bool = False
  data: str | None = None
  scheme: str | None = None
  student: Mapping[str, Any] = {}


class Imported(NamedTuple):
  """A model from elsewhere.

  Attributes:
    variables: `{'params', 'batch_stats'}`.
    config: of a run, as far as it concerns the model.
    classes: their names.
    palette: `(C, 3)` uint8; empty for more than 255 classes.
    report: where it is from, the scheme, and what was left out or drawn anew.
  """

  variables: Any
  config: ConfigDict
  classes: tuple[str, ...]
  palette: np.ndarray
  report: dict[str, Any]


def read(request: Request) -> Imported:
  """Reads, converts and checks; nothing is written but a download to the cache.

  Raises:
    UserError: the source cannot be had or read, or does not fit the model; says why.
  """
  names.require(request.model, models.NAMES, 'model')
  path, preprocessing = _find(request)
  own = _own(path, request.model)
  request = request._replace(scheme=request.scheme or own.get('scheme'))
  whole = distilled.parts(state_dicts.read(path))
  state_dict = whole.student
  if whole.by_review and preprocessing is None:  # not that of the scheme's published weights
    preprocessing = models.preprocessing_of(request.model)
  scheme, named_model = _scheme(request, state_dict)
  layers = scheme.layers(named_model)
  found_in = structure.read(named_model, state_dict, layers)
  there = found_in.num_classes
  backbone_alone = named_model != request.model
  count = request.num_classes or (_count(request) if backbone_alone else there)
  classes, palette = _classes(request, own, count)
  # What `export` wrote of this model is all there is to say of it.
  student = own['student'] if 'model' in own else found_in.student | own.get('student', {})
  config = _config(request, scheme, student, preprocessing)
  if config.student.name != request.model:  # what a file says is made of our models alone
    raise UserError(f'{path}: the description beside it names the model {config.student.name}; it '
                    'was edited.')
  if classes == class_names.imagenet() and request.model in BACKBONES:
    config.data.name = class_names.IMAGENET
    size = BACKBONES[request.model].size
    config.eval.update(short_side=size + _MARGIN, crop=(size, size))
  _update(config.task, {name: value for name, value in own.get('config', {}).get('task', {}).items()
                        if name in config.task})
  model = create_module(config.student, count)
  like = abstract_variables(model)
  if backbone_alone:
    like = {part: {'backbone': tree['backbone']} for part, tree in like.items()}
  head = set() if backbone_alone or there == count else (
      leaves_of_classes(config.student, count))
  found = conversion.to_variables(state_dict, layers, like, head=head)
  conversion.require_all(found, request.source)
  if found.resized and not request.allow_head_mismatch:
    raise UserError(
        f'{request.source} has {there} classes, not {count}: leave --num_classes out, or draw the '
        'layers that depend on it anew with --allow_head_mismatch.')
  variables, drawn = _completed(found.variables, model)
  return Imported(variables, config, classes, palette, {
      'source': request.source, 'file': os.path.basename(path), 'sha256': download.digest_of(path),
      'scheme': scheme.name, 'model': request.model,
      'left_out': sorted([*found.left_out, *whole.others]),
      'drawn_anew': drawn, 'kdseg_jax': kdseg_jax.__version__})


def write(imported: Imported, workdir: str) -> None:
  """Writes a work directory: `config.json`, `import.json`, a checkpoint; all of it or nothing.

  Raises:
    UserError: there is something of this name that is not empty.
    CheckpointError: it cannot be written.
  """
  workdir = os.path.abspath(workdir)
  if os.path.isdir(workdir) and os.listdir(workdir):
    raise UserError(f'{workdir} is not empty; give a new work directory.')
  parent, name = os.path.split(workdir)
  os.makedirs(parent, exist_ok=True)
  with tempfile.TemporaryDirectory(prefix=f'.{name}-', dir=parent) as folder:
    whole = os.path.join(folder, name)
    _write(imported, whole)
    if os.path.isdir(workdir):
      os.rmdir(workdir)
    shutil.move(whole, workdir)


def _write(imported, workdir):
  saved = config_files.to_dict(imported.config)
  metric = tasks.find(imported.config.task.name).main_metric
  checkpointer = Checkpointer(workdir, metric=metric.name, maximize=metric.maximize)
  checkpointer.save_model(imported.variables, {
      'config': saved, 'classes': list(imported.classes), 'palette': imported.palette.tolist(),
      'jax': jax.__version__})
  checkpointer.close()
  for name, content in ((config_files.FILE, saved), (REPORT, imported.report)):
    with open(os.path.join(workdir, name), 'w') as file:
      json.dump(content, file, indent=2)


def _find(request):
  """Path of the source on this machine, and its preprocessing where that is known."""
  if pretrained.is_name(request.source):
    return pretrained.find(request.source, models.backbone_of(request.model)[0])
  if request.source.startswith(('http://', 'https://')):
    return download.fetch_url(request.source), None
  return paths.local(request.source), None


def _scheme(request, state_dict) -> tuple[Scheme, str]:
  """The naming scheme, and the model that it names: ours, or its backbone with a classifier."""
  backbone = next((name for name in models.CLASSIFIERS if request.model.endswith(f'_{name}')), None)
  named = [request.model, *([backbone] if backbone else [])]
  if request.scheme:
    scheme = schemes.named(request.scheme)
    for model in named:
      if model in scheme.models:
        return scheme, model
    raise UserError(f'--scheme={request.scheme} names no layers of {request.model}; it does of '
                    f'{", ".join(scheme.models)}.')
  if backbone and schemes.fits(backbone, state_dict) and not schemes.fits(
      request.model, state_dict):
    return schemes.choose(backbone, state_dict), backbone
  return schemes.choose(request.model, state_dict), request.model


def _count(request):
  """Number of classes of a model of whose head the source tells nothing."""
  if request.data is None:
    raise UserError(f'{request.source} is a classifier, of which {request.model} takes the '
                    'backbone: give --num_classes, or --data, of the head that is drawn.')
  return class_names.count_of(request.data)


def _own(path, model):
  """What `export` wrote beside the weights; of another model, how its images are normalised."""
  found = state_dicts.description(path)
  if not found:
    return {}
  student = {field: tuple(value) if isinstance(value, list) else value
             for field, value in found['student'].items()}
  if found['model'] == model:
    return found | {'student': student}
  return {'student': {field: student[field] for field in Preprocessing._fields}}


def _classes(request, own, count):
  """Names and palette: of the data set that is asked for, or what the file says."""
  if request.data is None and len(own.get('classes', ())) == count:
    palette = np.array(own['palette'] or (), np.uint8).reshape(-1, 3)
    return tuple(own['classes']), palette
  return class_names.of(request.data, count)


def _config(request, scheme, structural, preprocessing):
  task = tasks.ClassificationTask if request.model in models.CLASSIFIERS else tasks.SegmentationTask
  config = run(task.name, role='teacher')
  student = config.student
  mean, std, _ = models.preprocessing_of(request.model)
  student.update(name=request.model, output_stride=models.output_stride_of(request.model),
                 mean=mean, std=std)
  _update(student, scheme.student)
  _update(student, structural)
  config.update(scheme.config)
  if preprocessing is not None:
    _update(student, preprocessing._asdict())
  _update(student, request.student)
  if request.data in class_names.NAMES and request.data != class_names.IMAGENET:
    config.data.name = request.data
  return config


def _update(section, fields):
  with section.unlocked():
    for name, value in fields.items():
      section[name] = value


def _completed(found, model):
  """All variables, those that were not found drawn from seed 0, and the paths of these."""
  drawn = sorted(set(_flat(abstract_variables(model))) - set(found))
  if not drawn:
    return _unflat(found), drawn
  image = np.zeros((1, 64, 64, 3), np.uint8)

  def draw():  # what is not returned is not computed
    fresh = _flat(model.init({'params': jax.random.key(0)}, image))
    return {path: fresh[path] for path in drawn}
  return _unflat(found | jax.jit(draw, compiler_options=parallel.compiler_options(0))()), drawn


def _flat(tree):
  return traverse_util.flatten_dict(tree, sep='/')


def _unflat(arrays):
  return {'batch_stats': {}} | traverse_util.unflatten_dict(arrays, sep='/')
