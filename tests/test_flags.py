"""Every flag of the programs that read a trained model reaches what it is for.

What the programs call is replaced by what notes how it was called; whether that does what it is
told is tested beside it. A new flag is here by being defined: it fails until `CASES` says what it
changes.
"""

import types

import numpy as np
import pytest
from absl import flags

from kdseg_jax import config_files, default_config, evaluate, export, names, predict, references
from kdseg_jax.data import files
from kdseg_jax.data.json_files import write_json
from kdseg_jax.inference import Inference, Model
from kdseg_jax.interop import exported, exporting, import_torch
from kdseg_jax.interop.exporting import hub
from kdseg_jax.report import presenters
from kdseg_jax.report.base import Figure
from kdseg_jax.training import experiment
from tests import runs, toys

FLIP = ['--config.eval.flip=True']
NAMES = ['--allow_class_names']
IMPORTS = ['--allow_imports=mine,yours.x']
ALLOWED = ['mine', 'yours.x']
NOTHING = 'not called'


class Pictures(list):
  """A source of one image."""

  classes, palette = ('a', 'b', 'c'), np.zeros((3, 3), np.uint8)

  def __init__(self):
    super().__init__([{'image': np.zeros((8, 8, 3), np.uint8), 'image_id': 'first',
                       'label': np.zeros((8, 8), np.uint8)}])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
  """Folders of runs, of which only the config is read, and a photo."""
  monkeypatch.chdir(tmp_path)
  for name, make in (('run', default_config.segmentation), ('big', default_config.segmentation),
                     ('boxes', default_config.detection)):
    config = make()
    config.teacher.checkpoint = 'teacher'
    config.data.root = 'its'
    write_json(str(tmp_path / name / config_files.FILE), config_files.to_dict(config))
  files.write_png(tmp_path / 'photo.png', np.zeros((8, 8, 3), np.uint8))


def note_imports(patch, seen):
  """Notes which fields of a saved config are checked, and what is permitted."""
  patch.setattr(references, 'require_permission', lambda name, allowed, *, field, **_: (
      seen.setdefault('imports', {}).update({field: allowed})))


def of_evaluate(patch, seen):
  """Of a task with a figure of its own, and one beside a teacher."""
  patch.setattr(presenters.find('detection'), 'figures', {
      'precision': Figure('', lambda *_: 'curves'),
      'conflict': Figure('', lambda *_: 'bars', lambda task, teacher: task)})
  patch.setattr(presenters, 'create', lambda *_: types.SimpleNamespace(
      table=lambda metrics: '', details=lambda *_: []))
  patch.setattr(experiment, 'create_evaluation_source', lambda config, split: (
      seen.update(source=(config.data.root, split)), Pictures())[1])
  note_imports(patch, seen)
  patch.setattr(evaluate, 'restore', lambda workdir, mesh, **options: (
      seen.update(model=(workdir, options)), toys.loaded(None))[1])
  patch.setattr(names, 'require_same_classes', lambda *_, allow, **__: seen.update(names=allow))
  patch.setattr(experiment, 'load_teacher', lambda *_, **options: (
      seen.update(teacher=options), toys.loaded(None))[1])
  patch.setattr(evaluate, 'Evaluator', lambda *_, **__: types.SimpleNamespace(
      accumulate=lambda *_: types.SimpleNamespace(summarize=lambda: {'images': 1})))
  patch.setattr(files, 'write_png', lambda path, picture: seen.update({picture: path}))
  patch.setattr(evaluate.json, 'dump', lambda metrics, file, **_: seen.update(json=file.name))
  return evaluate.PROGRAM, ['--workdir=boxes']


def of_predict(patch, seen):
  def writer(output, **options):
    seen.update(writer={'output': output, **options})
    return types.SimpleNamespace(close=lambda: '', add=lambda example, predictions: seen.update(
        shown=(example.name, *predictions)))

  def predicted(model, example):
    if isinstance(model, Model):
      seen.setdefault('seen by', {})[model.workdir] = (
          model.config.data.root, model.config.eval.flip)

  patch.setattr(predict, 'load', lambda path, **options: (
      seen.setdefault('models', []).append((path, options)), toys.loaded(None, workdir=path))[1])
  patch.setattr(exported, 'load', lambda path: (
      seen.update(export=path), types.SimpleNamespace(description={'task': 'segmentation'}))[1])
  note_imports(patch, seen)
  patch.setattr(experiment, 'create_source', lambda config, split: (
      seen.update(split=split), Pictures())[1])
  patch.setattr(names, 'require_same_classes', lambda *_, allow, **__: (
      seen.setdefault('names', []).append(allow)))
  patch.setattr(presenters, 'create', lambda *_: types.SimpleNamespace(writer=writer))
  patch.setattr(predict, 'AffinityWriter', lambda output, pixel, titles: writer(
      output, pixel=pixel, titles=titles))
  patch.setattr(predict, 'recorded_metric', lambda model, config, split, name: (
      0 if config.data.root != 'its' else 0.75 if config.eval.flip else
      0.25 if split == 'test' else 0.5))
  patch.setattr(predict, '_predicted', predicted)
  patch.setattr(predict, 'affinity', lambda model, image, pixel: seen.update(pixel=pixel))
  return predict.PROGRAM, []


def of_export(patch, seen):
  patch.setattr(export, 'load', lambda path, **options: seen.update(model=(path, options)))
  patch.setattr(exporting, 'export', lambda model, output, options: seen.update(
      output=output, options=options))
  patch.setattr(export, '_described', lambda output, _: output)
  patch.setattr(hub, 'check', lambda repository: None)
  patch.setattr(hub, 'push', lambda *given: seen.update(pushed=given))
  return export.PROGRAM, []


def of_import(patch, seen):
  patch.setattr(import_torch.importing, 'read', lambda request: seen.update(request._asdict()))
  patch.setattr(import_torch.importing, 'write', lambda _, workdir: seen.update(workdir=workdir))
  patch.setattr(import_torch, '_described', lambda *_: '')
  return import_torch.PROGRAM, ['--source=a.npz', '--model=resnet18', '--workdir=new']


def model(checkpoint='latest', allowed=(), views=None, **more):
  return {'checkpoint': checkpoint, 'views': views or Inference(), 'allow_imports': [*allowed],
          **more}


def models(*folders, **options):
  return [(folder, model(**options)) for folder in folders]


OWN = {'task.name': []}
PHOTO, SPLIT = ['--workdir=run', 'photo.png'], ['--workdir=run', '--split=test']
BOTH = [*PHOTO, '--compare=other=big']
EXPORTED = ['--exported=hlo', '--output=out', 'photo.png']
WRITER = {'output': 'run/predictions', 'main': 'run', 'titles': {'run': 'run 50.0'},
          'strips': False, 'legend': True}
STRIPS = WRITER | {'strips': True, 'titles': {'run': 'run 25.0'}}
STABLEHLO = ['--workdir=run', '--format=stablehlo', '--output=out']
OPTIONS = exporting.Options('stablehlo', None, ('cpu', 'cuda', 'tpu'), None)
OF_MODEL = {'checkpoint': 'latest', 'allow_imports': []}
REQUEST = {'source': 'a.npz', 'model': 'resnet18', 'num_classes': None, 'data': None,
           'allow_head_mismatch': False, 'scheme': None, 'student': {}, 'workdir': 'new'}
TEACHER = {'allow_class_names': False, 'allow_imports': []}
CASES = [  # the program, options, what they change of what is seen
    (of_evaluate, [], {'source': ('its', 'val'), 'model': ('boxes', model()), 'names': False,
                       'imports': {'task.name': [], 'data.name': []}}),
    (of_evaluate, ['--split=test'], {'source': ('its', 'test')}),
    (of_evaluate, ['--config.eval.split=test'], {'source': ('its', 'test')}),
    (of_evaluate, ['--data_root=mine'], {'source': ('mine', 'val')}),
    (of_evaluate, ['--best'], {'model': ('boxes', model('best'))}),
    (of_evaluate, ['--config.eval.sides=(8,9)'], {
        'model': ('boxes', model(views=Inference(sides=(8, 9))))}),
    (of_evaluate, IMPORTS, {'model': ('boxes', model(allowed=ALLOWED)),
                            'imports': {'task.name': ALLOWED, 'data.name': ALLOWED}}),
    (of_evaluate, NAMES, {'names': True}),
    (of_evaluate, ['--json=new/a.json'], {'json': 'new/a.json'}),
    (of_evaluate, ['--precision=new/a.png'], {'curves': 'new/a.png'}),
    (of_evaluate, ['--conflict=b.png', '--precision=a.png'], {
        'bars': 'b.png', 'curves': 'a.png', 'teacher': TEACHER}),
    (of_evaluate, ['--conflict=b.png', *IMPORTS], {
        'model': ('boxes', model(allowed=ALLOWED)), 'bars': 'b.png',
        'imports': {'task.name': ALLOWED, 'data.name': ALLOWED},
        'teacher': TEACHER | {'allow_imports': ALLOWED}}),
    (of_evaluate, ['--conflict=b.png', *NAMES], {
        'names': True, 'bars': 'b.png', 'teacher': TEACHER | {'allow_class_names': True}}),
    (of_predict, PHOTO, {
        'models': models('run'), 'imports': OWN, 'names': [False], 'writer': WRITER,
        'shown': ('photo.png', 'run'), 'seen by': {'run': ('its', False)}}),
    (of_predict, [*PHOTO, '--best'], {'models': models('run', checkpoint='best')}),
    (of_predict, [*PHOTO, '--output=out'], {'writer': WRITER | {'output': 'out'}}),
    (of_predict, [*PHOTO, '--nolegend'], {'writer': WRITER | {'legend': False}}),
    (of_predict, [*PHOTO, *FLIP], {'models': models('run', views=Inference(flip=True)),
                                   'seen by': {'run': ('its', True)},
                                   'writer': WRITER | {'titles': {'run': 'run 75.0'}}}),
    (of_predict, [*PHOTO, *IMPORTS], {
        'models': models('run', allowed=ALLOWED), 'imports': {'task.name': ALLOWED}}),
    (of_predict, [*PHOTO, *NAMES], {'names': [True]}),
    (of_predict, SPLIT, {
        'split': 'test', 'shown': ('first.png', 'run'), 'names': [False] * 2,
        'imports': OWN | {'data.name': []}, 'writer': STRIPS}),
    (of_predict, [*SPLIT, *NAMES], {
        'split': 'test', 'shown': ('first.png', 'run'), 'names': [True] * 2,
        'imports': OWN | {'data.name': []}, 'writer': STRIPS}),
    *[(of_predict, [*BOTH, *options], {
        'models': models('run', 'big', **changed), 'names': [permitted] * 2,
        'imports': {'task.name': allowed}, 'shown': ('photo.png', 'run', 'other'),
        'seen by': {'run': ('its', options is FLIP), 'big': ('', options is FLIP)},
        'writer': WRITER | {'strips': True, 'titles': {
            name: f'{name} {75 if options is FLIP else 50}.0' for name in ('run', 'other')}}})
      for options, changed, permitted, allowed in (
          ([], {}, False, []), (['--best'], {'checkpoint': 'best'}, False, []),
          (FLIP, {'views': Inference(flip=True)}, False, []),
          (IMPORTS, {'allowed': ALLOWED}, False, ALLOWED), (NAMES, {}, True, []))],
    (of_predict, [*PHOTO, '--affinity_at=3,5'], {'pixel': (3, 5), 'seen by': NOTHING, 'writer': {
        'output': 'run/predictions', 'pixel': (3, 5), 'titles': {'run': 'run 50.0'}}}),
    *[(of_predict, [*EXPORTED, *options], {
        'export': 'hlo', 'imports': {'task.name': allowed}, 'shown': ('photo.png', 'export'),
        'models': NOTHING, 'names': NOTHING, 'seen by': NOTHING, 'writer': {
            'output': 'out', 'main': 'export', 'titles': {}, 'strips': False, 'legend': legend}})
      for options, allowed, legend in (
          ([], [], True), (['--nolegend'], [], False), (IMPORTS, ALLOWED, True))],
    (of_export, STABLEHLO, {'model': ('run', OF_MODEL), 'output': 'out', 'options': OPTIONS}),
    (of_export, [*STABLEHLO, '--best'], {'model': ('run', OF_MODEL | {'checkpoint': 'best'})}),
    (of_export, [*STABLEHLO, *IMPORTS], {'model': ('run', OF_MODEL | {'allow_imports': ALLOWED})}),
    (of_export, [*STABLEHLO, '--size=24,32'], {'options': OPTIONS._replace(size=(24, 32))}),
    (of_export, [*STABLEHLO, '--platforms=tpu,cpu'], {
        'options': OPTIONS._replace(platforms=('tpu', 'cpu'))}),
    (of_export, ['--workdir=run', '--format=safetensors', '--output=out', '--scheme=cirkd'], {
        'options': OPTIONS._replace(format='safetensors', scheme='cirkd')}),
    (of_export, [*STABLEHLO, '--push_to=me/it'], {'pushed': ('out', 'me/it')}),
    (of_import, [], REQUEST),
    *[(of_import, [f'--{name}={value}'], {name: value}) for name, value in (
        ('source', 'b.npz'), ('model', 'resnet50'), ('num_classes', 7), ('scheme', 'cirkd'),
        ('data', 'camvid'), ('workdir', 'other'))],
    (of_import, ['--allow_head_mismatch'], {'allow_head_mismatch': True}),
    (of_import, ['--mean=1,2,3.5'], {'student': {'mean': (1, 2, 3.5)}}),
    (of_import, ['--std=4,5,6.5'], {'student': {'std': (4, 5, 6.5)}}),
    (of_import, ['--channel_order=bgr'], {'student': {'channel_order': 'bgr'}}),
]
USUAL = {}  # of each program, by its first case
for of_program, _, changed in CASES:
  USUAL.setdefault(of_program, changed)
DRAWN = {'confusion'}  # by the same code as the figures above


@pytest.mark.parametrize('of_program, options, changed', [
    pytest.param(*case, id=f'{case[0].__name__}-{" ".join(case[1])}') for case in CASES])
def test_a_flag_reaches_what_it_is_for(of_program, options, changed, monkeypatch, capsys):
  seen = {}
  program, first = of_program(monkeypatch, seen)
  status, text = runs.run_here(capsys, program, *first, *options)
  assert not status, text
  wanted = USUAL[of_program] | changed
  assert seen == {name: value for name, value in wanted.items() if value != NOTHING}


@pytest.mark.parametrize('of_program', USUAL)
def test_every_flag_has_a_case(of_program, monkeypatch):
  program, first = of_program(monkeypatch, {})
  options = flags.FlagValues()
  program.define_flags(options)
  given = {option.lstrip('-').partition('=')[0].removeprefix('no')
           for other, more, _ in CASES if other is of_program for option in (*first, *more)}
  assert {name for name in options if name not in given | DRAWN} <= {'helpfull'}
