"""Methods, models, data and optimisers of one's own: named, checked, trained, and permitted."""

import json

import jax
import numpy as np
import PIL.Image
import pytest
from ml_collections import ConfigDict

import kdseg_jax
from kdseg_jax import (
  command_line,
  config_files,
  default_config,
  distillers,
  evaluate,
  export,
  models,
  outside,
  predict,
  references,
  train,
)
from kdseg_jax.errors import UserError
from kdseg_jax.recipes import common
from kdseg_jax.studies import plan as study_plan
from kdseg_jax.training import experiment, loop
from tests import runs, workdirs

MODEL, DATA = 'tests.mylab.parts:Tiny', 'tests.mylab.parts:Stripes'
TERM = 'tests.mylab.losses:my_term'


def config_of(method='none', role='student', **fields):
  """A run of parts of one's own alone."""
  config = default_config.segmentation(method, role)
  config.student.update(name=MODEL, options={'features': 3})
  config.data.update(name=DATA, options={'count': 8})
  config.augmentation.update(crop=(16, 16), scale=())
  config.train.update(steps=2, batch_size=8, compile_level=0)
  config.eval.update(split='val', every_steps=0, batch_size=8)
  config.checkpoint.every_steps = 0
  config.optimizer.update(name='optax:lion', options={'b1': 0.8})
  config.update_from_flattened_dict(fields)
  return config


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """A teacher and a student that it taught, in one folder."""
  folder = tmp_path_factory.mktemp('trained')
  loop.train(config_of(role='teacher'), str(folder / 'teacher'))
  loop.train(config_of(f'kd+{TERM}@0.5', **{'teacher.checkpoint': str(folder / 'teacher')}),
             str(folder / 'student'))
  return folder


def test_a_run_of_parts_of_ones_own_is_trained_with_their_options(trained):
  row = [row for row in runs.rows(trained / 'student') if row['phase'] == 'train'][-1]
  assert row['distill/my_term/weighted'] == pytest.approx(0.5 * row['distill/my_term/raw'])
  saved = json.loads((trained / 'student' / 'config.json').read_text())
  assert saved['distill']['my_term'] == {
      'factory': TERM, 'weight': 0.5, 'warmup_steps': 0, 'power': 2, 'tap': 'logits',
      'levels': [1]}
  model = kdseg_jax.load(trained / 'student', allow_imports=('tests.mylab',))
  assert model.module.features == 3 and model.classes == ('left', 'right')
  built = experiment.create_experiment(config_of())
  assert len(built.train_source) == 8


def test_what_is_false_or_zero_in_a_config_reaches_a_model_of_ones_own_too():
  model = models.create('tests.mylab.parts:Regularized', 3, dropout=0.0, aux=False, width=0.5)
  assert (model.num_classes, model.width) == (3, 0.5)
  assert (model.dropout, model.aux, model.aux_bias) == (0.0, False, False)
  assert models.create('tests.mylab.parts:Regularized', 3).dropout == 0.1  # None is its own


def test_what_a_saved_config_names_is_refused_or_permitted(trained, tmp_path, capsys):
  workdir = trained / 'student'
  image = str(tmp_path / 'photo.png')
  PIL.Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(image)
  with pytest.raises(UserError, match=r'config.student.name=tests.mylab.parts:Tiny is code.*allow'):
    kdseg_jax.load(workdir, allow_imports=('tests.mylab2', 'test', 'mylab'))
  cases = [(evaluate.PROGRAM, [], '8 images'), (predict.PROGRAM, [image], '1 images'),
           (predict.PROGRAM, ['--split=val'], '8 images')]
  for program, arguments, said in cases:
    arguments = [*arguments, f'--workdir={workdir}']
    if program is predict.PROGRAM:
      arguments.append(f'--output={tmp_path / "predictions"}')
    status, text = runs.run_here(capsys, program, *arguments)
    assert status == 2 and '--allow_imports=tests' in text
    status, text = runs.run_here(capsys, program, *arguments, '--allow_imports=tests.mylab')
    assert not status and said in text
  status, text = runs.run_here(
      capsys, evaluate.PROGRAM, f'--workdir={workdir}', '--allow_imports=tests.mylab.parts',
      f'--config.data.name={DATA}', '--config.data.options.count=5')
  assert not status and '5 images' in text


def test_an_export_of_a_model_of_ones_own_is_permitted(trained, tmp_path, capsys):
  status, text = runs.run_here(
      capsys, export.PROGRAM, f'--workdir={trained / "student"}', '--allow_imports=tests.mylab',
      '--format=stablehlo', f'--output={tmp_path / "out"}', '--size=16,16', '--platforms=cpu')
  assert not status and 'tests.mylab.parts:Tiny, 2 classes, checkpoint 2 of student' in text


@pytest.mark.parametrize('part, reference, options', [
    (outside.MODEL, 'Tiny', {'features': 4}), (outside.MODEL, 'Regularized', {'features': 4}),
    (outside.SOURCE, 'Stripes', {'count': 9}), (outside.OPTIMIZER, 'signed', {'scale': 1.0})])
def test_what_we_give_a_factory_is_none_of_its_options(part, reference, options):
  assert outside.options_of(part, f'tests.mylab.parts:{reference}') == options


def test_a_factory_is_given_what_it_has_alone():
  assert {'weight_decay', 'mask'}.isdisjoint(outside.options_of(outside.OPTIMIZER, 'optax:lion'))
  assert outside.takes('optax:lion', outside.OPTIMIZER, 'mask')
  assert not outside.takes('tests.mylab.parts:signed', outside.OPTIMIZER, 'mask')
  made = outside.build(outside.SOURCE, 'tests.mylab.parts:Stripes', {'count': 3}, 'val',
                       root='somewhere', size=(8, 8))
  assert (made.split, len(made)) == ('val', 3)


def test_a_method_that_is_gone_is_missed_by_training_alone(trained, tmp_path, monkeypatch, capsys):
  to_dict = config_files.to_dict

  def gone(config):
    saved = to_dict(config)
    saved['distill'] = {'lost': {'factory': 'lost.losses:lost', 'weight': 1.0, 'own': 3}}
    return saved | {'optimizer': saved['optimizer'] | {'name': 'lost.optimizers:lost'}}
  with monkeypatch.context() as patch:
    patch.setattr(config_files, 'to_dict', gone)
    workdirs.save(tmp_path / 'run', workdirs.config_of())
  model = kdseg_jax.load(tmp_path / 'run')
  assert model.config.distill.lost.own == 3
  assert model.predict(np.zeros((32, 32, 3), np.uint8))[0].labels.shape == (32, 32)
  config = ConfigDict(model.config)
  with pytest.raises(UserError, match="distill.lost.factory=lost.losses:lost: there is no module"):
    experiment.create_experiment(config)


# What runs no code of a work directory of someone else's: fields of its config, and where they are
# met.
FIELDS = ('student.name', 'task.name', 'data.name', 'optimizer.name', 'distill.evil.factory')


@pytest.fixture
def hostile(tmp_path, monkeypatch):
  """Makes a work directory one of whose fields names a module that leaves a mark."""
  marker = tmp_path / 'marker'
  code = f'import pathlib\npathlib.Path({str(marker)!r}).touch()\ndef evil(*_, **__): pass\n'
  (tmp_path / 'hostile_module.py').write_text(code)
  monkeypatch.syspath_prepend(str(tmp_path))
  to_dict = config_files.to_dict

  def save(field):
    def spoiled(config):
      saved = to_dict(config)
      *sections, name = field.split('.')
      place = saved
      for section in sections:
        place = place.setdefault(section, {'weight': 1.0})
      place[name] = 'hostile_module:evil'
      return saved
    with monkeypatch.context() as patch:
      patch.setattr(config_files, 'to_dict', spoiled)
      workdirs.save(tmp_path / 'run', workdirs.config_of(), classes=('left', 'right'),
                    palette=((0, 0, 0), (255, 255, 255)))
    return str(tmp_path / 'run')
  yield save
  assert not marker.exists()


@pytest.mark.parametrize('field', FIELDS)
def test_a_work_directory_of_someone_else_runs_no_code(field, hostile, tmp_path, capsys):
  workdir = hostile(field)
  image = str(tmp_path / 'photo.png')
  PIL.Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(image)
  programs = {
      'evaluate': (evaluate.PROGRAM, [f'--workdir={workdir}']),
      'print': (evaluate.PROGRAM, [f'--workdir={workdir}', '--print_config']),
      'split': (predict.PROGRAM, [f'--workdir={workdir}', '--split=val']),
      'files': (predict.PROGRAM, [f'--workdir={workdir}', image]),
      'export': (export.PROGRAM, [f'--workdir={workdir}', '--format=stablehlo',
                                  f'--output={tmp_path / "out"}', '--size=32,32',
                                  '--platforms=cpu'])}
  needed = {'student.name': ('evaluate', 'split', 'files', 'export'),
            'task.name': ('evaluate', 'split', 'files', 'export'),
            'data.name': ('evaluate', 'split')}.get(field, ())
  for name, (program, arguments) in programs.items():
    if name == 'export' and name not in needed:
      continue  # it is read as `files` is, and takes long
    if field not in ('student.name', 'task.name', 'data.name') and name in ('evaluate', 'split'):
      arguments = [*arguments, f'--config.data.name={DATA}']
    status, text = runs.run_here(capsys, program, *arguments)
    assert bool(status) == (name in needed), (name, text)
    assert ('--allow_imports=hostile_module' in text) == (name in needed)


@pytest.mark.parametrize('field', FIELDS)
def test_neither_as_teacher_nor_to_start_from_nor_to_go_on(field, hostile):
  workdir = hostile(field)
  as_teacher = config_of('kd', **{'teacher.checkpoint': workdir})
  refused = field in ('student.name', 'task.name')
  if refused:
    with pytest.raises(UserError, match='--allow_imports=hostile_module'):
      experiment.create_experiment(as_teacher)
  else:
    experiment.create_experiment(as_teacher)
  start = config_of(**{'student.init': workdir})
  with pytest.raises(UserError) as error:  # of another architecture, if not of another's code
    loop.train(start, f'{workdir}_new')
  assert ('--allow_imports=hostile_module' in str(error.value)) == (field == 'student.name')
  with pytest.raises(UserError):
    loop.train(config_of(), workdir)
  assert study_plan.changes_of(config_of(), workdir)


@pytest.mark.parametrize('allowed, permitted', [
    ((), False), (('mylab',), True), (('mylab.models',), True), (('mylab.models:tiny',), True),
    (('mylab2',), False), (('my',), False), (('mylab.mod',), False), (('mylab.models.x',), False),
    (('mylab.models:other',), False), (('',), False)])
def test_a_module_is_permitted_by_its_name_or_that_of_one_above_it(allowed, permitted):
  arguments = {'field': 'student.name', 'where': 'runs/x'}
  references.require_permission('deeplabv3_resnet18', (), **arguments)
  references.require_permission('tfds:voc', (), **arguments)
  if permitted:
    references.require_permission('mylab.models:tiny', allowed, **arguments)
  else:
    with pytest.raises(UserError, match='x: its config.student.name=mylab.models:tiny is code'):
      references.require_permission('mylab.models:tiny', allowed, **arguments)


@pytest.mark.parametrize('fields, message', [
    ({'student.name': 'mylap.models:tiny'},
     r"config.student.name=mylap.models:tiny: there is no module 'mylap'. It was looked for in /"),
    ({'student.name': 'tests.mylab.model:Tiny'}, "there is no module 'tests.mylab.model'"),
    ({'student.name': 'tests.mylab.parts:Tony'}, "has no 'Tony'. Did you mean 'Tiny'"),
    ({'student.name': 'tests.mylab.losses:NOTHING_TO_CALL'}, 'is a int; expected a function or a'),
    ({'student.name': 'tests.mylab.parts:nothing', 'student.options': {}},
     "tests.mylab.parts:nothing: is int, without 'init'; expected a flax"),
    ({'student.options': {'featurs': 3}},
     "field of config.student.options: 'featurs'. Did you mean 'features'"),
    ({'student.options': {'features': 'many'}}, "features='many': is of type str; expected int"),
    ({'student.options': {'width': 2.0}}, "field of config.student.options: 'width'"),
    ({'student.name': 'deeplabv3_resnet18'}, 'config.student.options=.*names, and .*deeplabv3'),
    ({'data.name': 'tests.mylab.parts:Stripe'}, "Did you mean 'Stripes'"),
    ({'data.name': 'tests.mylab.parts:nothing', 'data.options': {}}, 'first parameter has no def'),
    ({'data.name': 'tests.mylab.parts:Pairs'}, 'an example is tuple .*expected a dict with image'),
    ({'data.options': {'cuont': 3}}, "field of config.data.options: 'cuont'. Did you mean 'count'"),
    ({'data.root': 'somewhere'}, "config.data.root=somewhere: tests.mylab.parts:Stripes takes no"),
    ({'data.name': 'scenes'}, 'config.data.options=.*config.data.name=scenes'),
    ({'optimizer.name': 'optax:lin'}, "optax .* has no 'lin'"),
    ({'optimizer.options': {'b3': 0.1}}, "field of config.optimizer.options: 'b3'"),
    ({'optimizer.name': 'sgd'}, 'config.optimizer.options=.*config.optimizer.name=sgd'),
    ({'critic.optimizer.options': {'x': 1}}, 'config.critic.optimizer.options='),
    ({'task.name': 'tests.mylab.parts:Tiny'}, "is type, without 'accumulator'; expected a task"),
])
def test_what_cannot_be_used_is_named(fields, message):
  config = config_of()
  with config.unlocked():
    for field, value in fields.items():
      section, _, name = field.rpartition('.')
      place = config
      for part in section.split('.'):
        place = place[part]
      place[name] = ConfigDict(value) if isinstance(value, dict) else value
  with pytest.raises(UserError, match=message):
    experiment.create_experiment(config)


@pytest.mark.parametrize('model', ['Untapped', 'Unnamed'])
def test_a_model_without_named_taps_is_refused(model):
  config = config_of(**{'student.name': f'tests.mylab.parts:{model}'})
  config.student.options = {}
  with pytest.raises(UserError, match=rf'{model} returns .* expected \(prediction, taps\)'):
    experiment.abstract_inputs(experiment.create_experiment(config))


@pytest.mark.parametrize('method, message', [
    ('tests.mylab.losses:my_trem', "distill.my_trem.factory=.*Did you mean 'my_term'"),
    ('tests.mylab.losses:kd@2+kd', "two terms are called 'kd', .*distillers:pixelwise"),
    ('tests.mylab.losses:kd@2+channel_wise', "two terms are called 'kd'"),
])
def test_a_method_string_that_cannot_be_used_is_refused(method, message):
  with pytest.raises(UserError, match=message):
    distillers.terms_of(method)


def test_an_option_without_default_is_asked_for():
  terms = distillers.terms_of('tests.mylab.losses:kd')
  assert terms['kd']['temperature'] is None
  with pytest.raises(UserError, match='config.distill.kd.temperature has no value'):
    distillers.create(terms)
  assert distillers.create({'kd': terms['kd'] | {'temperature': 2}}).requires.teacher


def test_what_is_no_distiller_is_refused():
  with pytest.raises(UserError, match='no_distiller.factory returned int; expected a kdseg_jax'):
    distillers.create(distillers.terms_of('tests.mylab.losses:no_distiller'))


def test_a_factory_with_a_first_parameter_wraps_the_others():
  terms = distillers.terms_of('tests.mylab.losses:doubled+kd')
  assert 'warmup_steps' not in terms['doubled'] and terms['doubled']['factor'] == 2.0
  inputs = distillers.DistillInputs(*({'logits': np.random.default_rng(seed).normal(
      size=(1, 2, 2, 3)).astype(np.float32)} for seed in (0, 1)))

  def loss(terms):
    method = distillers.create(terms)
    return float(jax.jit(method.loss)(method.init(jax.random.key(0), inputs), inputs)[0])
  assert loss(terms) == pytest.approx(2 * loss({'kd': terms['kd']}), rel=1e-6)


def test_a_recipe_may_write_terms_of_which_options_can_then_be_overridden(tmp_path, monkeypatch):
  monkeypatch.chdir(runs.ROOT)
  recipe = tmp_path / 'recipe.py'
  recipe.write_text(
      'from kdseg_jax.recipes import common, quickstart\n'
      'def get_config(arg=None):\n'
      '  config = quickstart.get_config(arg)\n'
      f'  config.distill.mine = {{"factory": "{TERM}", "weight": 0.5}}\n'
      '  return common.study(config, title="", description="", baseline="a", seeds=(0,), students='
      f'{{"a": {{"method": "{TERM}@2+kd"}}, "b": {{"distill": {{"other": {{"factory": "{TERM}", '
      '"weight": 3.0, "power": 3}}}})\n')
  options, _ = command_line.parse(
      ['train', f'--config={recipe}:method=kd', '--config.distill.mine.power=3',
       '--config.student.name=tests.mylab.parts:Tiny', '--config.student.options.features=7',
       '--config.study.students.a.distill.my_term.power=4', '--config.distill.kd.weight=2'],
      train.PROGRAM._define_flags, 'recipe')
  config = options.config
  assert config.distill.mine.power == 3 and config.distill.mine.warmup_steps == 0
  assert config.distill.kd.weight == 2.0 and config.student.options.features == 7
  a, b = (study_plan.student_config(config, name, 0) for name in 'ab')
  assert (a.distill.my_term.power, a.distill.my_term.weight, a.distill.kd.weight) == (4, 2.0, 1.0)
  assert b.distill.other.to_dict() == {
      'factory': TERM, 'weight': 3.0, 'warmup_steps': 0, 'power': 3, 'tap': 'logits',
      'levels': (1,)}
  assert set(options.allow_imports) == {TERM, MODEL, *(
      f'kdseg_jax.distillers:{name}' for name in ('pixelwise',))}
  common.runlocal(config.unlock())
  assert config.distill.mine.power == 1 and config.student.name == MODEL
