"""Every field of the config changes the data, a program or what a run does: none goes nowhere.

A new field is here by being in the default config: it fails with 'no case for' until `CASES` says
another value and where that is seen. What is looked at is made from the config by the programs' own
functions, so that a field that is read but not passed on is seen too.
"""

import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from kdseg_jax import data, default_config, distillers, parallel, tasks
from kdseg_jax.inference import evaluation
from kdseg_jax.training import experiment, loop, preparations, programs, run
from tests import toys
from tests.data import archives, boxed_sets


class Model(nn.Module):
  """One layer with every tap that the loss of a task or the toy methods read."""

  num_classes: int
  axis_name: str | None = None

  @nn.compact
  def __call__(self, image, mask=None, index=None, train=False):
    x = nn.Conv(self.num_classes, (3, 3), (4, 4))(image / 255)
    x = nn.BatchNorm(not train, axis_name=self.axis_name)(x)
    return x, {'x': x, 'logits': x, 'aux_logits': -x, 'embedding': x}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch, tmp_path):
  """Toy models and methods, two tiny data sets, a folder for work directories."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(experiment, 'create_model', lambda config, classes, original=(
      experiment.create_model): (Model(classes, parallel.AXIS) if config.name == 'toy'
                                 else original(config, classes)))
  archives.folder(tmp_path / 'a', size=(36, 48))
  archives.folder(tmp_path / 'b', size=(40, 48))
  boxed_sets.voc(tmp_path / 'boxes', upright='c')


def config_of(field=None, value=None, **beside):
  """The default config, small, with one field and those it needs set."""
  config = default_config.segmentation(beside.pop('method', 'none'))
  config.student.name = 'toy'
  config.augmentation.crop = (16, 16)
  config.train.update(batch_size=8, steps=40)
  config.eval.update(batch_size=8, limit=9)
  config.data.size = (32, 32)
  config.log.every_steps = 3
  with config.unlocked():
    for name, given in (beside | ({field: value} if field else {})).items():
      section, _, leaf = name.rpartition('.')
      (section_of(config, section))[leaf] = given
  return config


def section_of(config, path):
  for name in filter(None, path.split('.')):
    config = config[name]
  return config


def teacher_of(config, classes):
  """A teacher of made-up weights, if the method reads one."""
  if not config.distill or config.teacher.checkpoint == 'missing':
    return None
  model = Model(classes, parallel.AXIS)
  return toys.loaded(model, toys.variables(model, jnp.zeros((1, 16, 16, 3))))


def experiment_of(config):
  if config.distill and not config.teacher.checkpoint:
    config.teacher.checkpoint = 'teacher'
  return experiment.create_experiment(config, teacher=teacher_of(config, 11))


# What is looked at: each a function of the config, whose results are compared.


def train_program(config):
  """The text of the train step, of which nothing is compiled, and the number that it is given."""
  built = experiment_of(config)
  state = jax.eval_shape(experiment.make_initial_state(built), jax.random.key(0),
                         preparations.placeholders(built))
  constants = programs.Constants.of(built, built.teacher.variables if built.teacher else {})
  text = text_of(programs.student_program(built), constants, state, first_batch(built, 'train'))
  return text, float(constants.learning_rate)


def preparation_of(built):
  """How the method's preparation is fitted, as `preparations.prepare` does it."""
  return preparations.Fit.of(
      built, built.distiller.prepare.parts['everything'].parts['c'],
      experiment.abstract_inputs(built))


def prepare_program(config):
  built = experiment_of(config)
  fit = preparation_of(built)
  state = jax.eval_shape(fit.create, jax.random.key(0))
  return text_of(programs.donating(built, fit.step), built.teacher.variables, state,
                 first_batch(built, 'prepare'))


def updates_of_a_convolution(config):
  """By each of the optimisers that are created; not all methods have a convolution."""
  ones, seen = {'kernel': jnp.ones(2), 'bias': jnp.ones(2)}, []

  def create(*given, original=experiment.create_optimizer):
    optimizer = original(*given)
    seen.append(optimizer.update(ones, optimizer.init(ones), ones)[0])
    return optimizer
  with pytest.MonkeyPatch.context() as patch:
    for module in (experiment, preparations):
      patch.setattr(module, 'create_optimizer', create)
    preparation_of(experiment_of(config))
  return seen


def prepared_folder(config):
  """Where what is prepared is kept."""
  folders = []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(preparations, '_prepare', lambda *given: folders.append(given[3]))
    preparations.prepare(experiment_of(config), 'work', None)
  return folders


def prepare_steps(config):
  return preparations.number_of_steps(experiment_of(config))


def first_batch(built, phase):
  batch = next(run.training_batches(built, phase, start=0))
  return split_for_pmap(batch) if built.config.parallel == 'pmap' else batch


def text_of(program, constants, state, batch):
  return program._mapped.lower(constants, state, batch).as_text()


def batches(config):
  """The first two batches, as a run would read them."""
  stream = run.training_batches(experiment_of(config), 'train', start=0)
  return [next(stream) for _ in range(2)]


def first_key(config):
  """The key that a fresh state is drawn from."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(experiment, 'make_initial_state', lambda built: (
        lambda key, prepared: jax.random.key_data(key)))
    return experiment.initial_state(experiment_of(config))


def source_arguments(config):
  """What a source is asked for; no data set of TFDS is here to be read."""
  calls = []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(data, 'create', lambda *names, **options: calls.append((names, options)))
    experiment.create_source(config, 'train')
  return calls


def student(config):
  return repr(experiment_of(config).student)


def teacher(config):
  """Where the teacher is looked for."""
  return experiment.create_experiment(config)


def first_teacher(config):
  """What is trained before the student."""
  trained = []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loop.shapes, 'check_with_untrained', lambda *_, **__: None)
    patch.setattr(loop, 'train_teacher', lambda own, *_, **__: trained.append(own.to_dict()))
    patch.setattr(loop, 'start', lambda *_, **__: pytest.fail('after its teacher'))
    if config.teacher.config:
      assert loop.train(config, 'work') is None
  return trained


def measured(config):
  """A teacher that scores 0.3."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(run, 'create_evaluator', lambda *_: lambda *_, **__: {'mean_iou': 0.3})
    return run.measure_teacher(experiment_of(config), 'work')


def memory(config):
  built = experiment_of(config)
  return jax.eval_shape(experiment.make_initial_state(built), jax.random.key(0),
                        preparations.placeholders(built))


def start(config):
  """What a run starts from, and how its checkpoints are kept."""
  built = experiment_of(config)
  calls = []
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(run, 'Checkpointer', lambda *_, **options: (
        calls.append(options), types.SimpleNamespace(latest_step=lambda: None))[1])
    model = Model(11, parallel.AXIS)
    variables = toys.variables(model, jnp.zeros((1, 16, 16, 3)))
    state = types.SimpleNamespace(
        **variables, average={}, step=0, _replace=lambda **changes: changes)
    run.Run(built, 'work', state, evaluator=None, should_stop=None)
  return calls


def due(config):
  """What follows each step of a run, and of a preparation."""
  return [run.Run.due(types.SimpleNamespace(
      config=config, phase=phase, steps=config[phase].steps, _evaluator=evaluator), step,
                      stopping=False)
          for phase, evaluator in (('train', 'evaluates'), ('prepare', None))
          for step in range(1, 50)]


def compiler_options(config, build):
  """What XLA is told of each of the programs that a function builds of an experiment."""
  options = []
  built = experiment_of(config)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax, 'jit', lambda function, original=jax.jit, **given: (
        options.append(given.get('compiler_options')), original(function, **given))[1])
    build(built)
  return options


def compiled_step(config):
  return compiler_options(config, programs.train_step_of)


def compiled_teacher(config):
  return compiler_options(config, lambda built: programs.teacher_program(
      built, distillers.Requires(teacher=('logits',))))


def compiled_preparation(config):
  return compiler_options(
      config, lambda built: programs.donating(built, preparation_of(built).step))


def evaluated(config):
  """The first image that models are evaluated on."""
  return experiment.create_evaluation_source(config, 'val')[0]['image']


def evaluation_of(config):
  """The program that evaluates, the batches it is given, and the metrics of made-up counts."""
  built, seen = experiment_of(config), []

  def record(*arguments, original=parallel.data_parallel, **options):
    program = original(*arguments, **options)

    def step(variables, state, batch):
      given = split_for_pmap(batch) if options['mode'] == 'pmap' else batch
      seen.append((text_of(program, variables, state, given), batch))
      matrix = np.zeros((built.task.num_classes,) * 2, int)
      matrix[1, 1:3] = 1
      counts = {'confusion_matrix': matrix, 'images': np.sum(batch['index'] >= 0)}
      outputs = tasks.Outputs(counts)
      return (outputs, None) if config.eval.pictures else outputs
    return step
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(evaluation.parallel, 'data_parallel', record)
    evaluator = run.create_evaluator(built, built.student)
  variables = toys.variables(Model(built.task.num_classes), jnp.zeros((1, 16, 16, 3)))
  return seen, evaluator(variables, built.evaluation_source)


def split_for_pmap(batch):
  return jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), batch)


OPTIMIZER = [  # field, another value, beside
    ('name', 'adamw', {}), ('learning_rate', 0.3, {}), ('schedule', 'constant', {}),
    ('power', 1.5, {}),
    ('milestones', (0.25,), {'schedule': 'steps'}), ('factor', 0.5, {'schedule': 'steps'}),
    ('warmup_steps', 3, {}), ('warmup', 'constant', {'warmup_steps': 3}),
    ('warmup_factor', 0.1, {'warmup_steps': 3}), ('momentum', 0.5, {}), ('nesterov', True, {}),
    ('options', ConfigDict({'scale': 3.0}), {'name': 'tests.mylab.parts:signed'}),
    ('b1', 0.5, {'name': 'adamw'}), ('b2', 0.5, {'name': 'adamw'}),
    ('weight_decay', 0.3, {'decay': 'all'}), ('decay', 'all', {}), ('clip_norm', 1.0, {})]
WITH_TEACHER = {'method': 'tests.toy_methods:everything', 'prepare.steps': 20}
FOLDER = {'data.name': 'folder', 'data.root': 'a', 'augmentation.scale': ()}
CASES = [  # field, another value, where it is seen, fields beside it
    ('seed', 1, batches, {}), ('seed', 1, first_key, {}),
    ('role', 'teacher', batches, {}), ('role', 'teacher', first_key, {}),
    ('parallel', 'pmap', train_program, WITH_TEACHER), ('parallel', 'pmap', evaluation_of, {}),
    ('parallel', 'pmap', prepare_program, WITH_TEACHER),
    ('distill.kd.temperature', 3.0, train_program, {'method': 'kd'}),
    ('task.align_corners', False, train_program, {}),
    ('task.align_corners', False, evaluation_of, {}),
    ('task.name', 'none', student, {}),
    ('task.auxiliary_weight', 0.2, train_program, {}),
    ('task.supervised_loss', 'ohem_cross_entropy', train_program, {}),
    ('task.ohem_threshold', 0.5, train_program, {'task.supervised_loss': 'ohem_cross_entropy'}),
    ('task.ohem_min_kept', 7, train_program, {'task.supervised_loss': 'ohem_cross_entropy'}),
    ('data.name', 'folder', batches, {'data.root': 'a'}),
    ('data.options', ConfigDict({'count': 5}), batches, {
        'data.name': 'tests.mylab.parts:Stripes', 'data.size': ()}),
    ('data.root', 'b', batches, FOLDER), ('data.root', 'b', evaluation_of, FOLDER),
    ('data.size', (40, 40), batches, {}), ('data.size', (40, 40), evaluation_of, {}),
    ('data.by_orientation', True, batches, {
        'data.name': 'tests.mylab.parts:Turned', 'data.size': (), 'augmentation.crop': (16, 24)}),
    ('data.by_orientation', True, evaluated, {
        'data.name': 'voc_boxes', 'data.root': 'boxes', 'data.size': (), 'eval.canvas': (32, 64)}),
    ('data.train_split', 'val', batches, {}), ('data.train_limit', 3, batches, {}),
    ('data.seed', 5, batches, {}),
    ('data.unlabelled', 'b/images/train', batches, {'data.train_limit': 3}),
    ('data.unlabelled', 'rest', batches, {'data.train_limit': 3}),
    ('data.unlabelled_share', 0.5, batches, {'data.train_limit': 3, 'data.unlabelled': 'rest'}),
    ('data.tfds.image_key', 'photo', source_arguments, {'data.name': 'tfds:x'}),
    ('data.tfds.label_key', 'classes', source_arguments, {'data.name': 'tfds:x'}),
    ('data.tfds.num_classes', 9, source_arguments, {'data.name': 'tfds:x'}),
    ('augmentation.crop', (24, 16), batches, {}), ('augmentation.scale', (), batches, {}),
    ('augmentation.flip', 1.0, batches, {}), ('augmentation.pad', 3, batches, {}),
    ('augmentation.resized_crop', (0.2, 0.5), batches, {'augmentation.scale': ()}),
    ('student.options', ConfigDict({'features': 5}), student, {
        'student.name': 'tests.mylab.parts:Tiny'}),
    ('augmentation.resize', ((24, 32),), batches, {}),
    ('student.name', 'pspnet_resnet18', student, {'student.name': 'deeplabv3_resnet18'}),
    *[(f'student.{field}', value, student, {'student.name': 'deeplabv3_resnet18'})
      for field, value in [('width', 0.5), ('output_stride', 16), ('aux', False),
                           ('project_dropout', 0.3), ('dropout', 0.3), ('dtype', 'bfloat16'),
                           ('remat', 'everything'), ('mean', (1.0, 2.0, 3.0)),
                           ('std', (1.0, 2.0, 3.0)), ('channel_order', 'bgr')]],
    ('student.init', 'missing', start, {}),
    ('teacher.checkpoint', 'nowhere', teacher, {'method': 'kd', 'teacher.checkpoint': 'missing'}),
    ('teacher.config', {'role': 'teacher'}, first_teacher, {'method': 'kd'}),
    ('teacher.min_metric', 0.5, measured, {'method': 'kd'}),
    ('train.steps', 30, due, {}), ('train.steps', 30, train_program, {}),
    ('train.batch_size', 16, batches, {}),
    ('train.split_teacher', True, compiled_step, WITH_TEACHER),
    *[('train.compile_level', 1, look, WITH_TEACHER)
      for look in (compiled_step, compiled_teacher, compiled_preparation)],
    ('train.accumulate', 2, train_program, {'train.batch_size': 16}),
    ('train.ema_decay', 0.9, train_program, {}), ('train.freeze', ('Conv_0/*',), train_program, {}),
    *[(f'optimizer.{field}', value, train_program,
       {f'optimizer.{other}': given for other, given in beside.items()})
      for field, value, beside in OPTIMIZER],
    *[(f'{section}.optimizer.{field}', value, look, WITH_TEACHER | {
        f'{section}.optimizer.{other}': given for other, given in beside.items()})
      for section, look in (('critic', train_program), ('prepare', prepare_program))
      for field, value, beside in OPTIMIZER],
    *[(f'{section}optimizer.bias_factor', 2.0, updates_of_a_convolution, WITH_TEACHER)
      for section in ('', 'critic.', 'prepare.')],
    ('memory_limit_gb', 1e-9, memory, WITH_TEACHER),
    ('critic.steps', 2, train_program, WITH_TEACHER), ('prepare.steps', 30, due, {}),
    ('prepare.steps', 30, prepare_program, WITH_TEACHER),
    ('prepare.steps', 0, prepare_steps, WITH_TEACHER),  # an epoch
    ('prepare.folder', 'elsewhere', prepared_folder, WITH_TEACHER),
    ('eval.split', 'test', evaluation_of, {}), ('eval.every_steps', 7, due, {}),
    ('eval.batch_size', 16, evaluation_of, {}), ('eval.limit', 5, evaluation_of, {}),
    ('eval.pad_multiple', 20, evaluation_of, {}), ('eval.window', (16, 16), evaluation_of, {}),
    ('eval.overlap', 0.7, evaluation_of, {'eval.window': (16, 16)}),
    ('eval.scales', (0.5, 1.0), evaluation_of, {}), ('eval.flip', True, evaluation_of, {}),
    ('eval.crop', (32, 32), evaluated, {'eval.short_side': 48}),
    ('eval.short_side', 48, evaluated, {'eval.crop': (32, 32)}),
    ('eval.canvas', (48, 48), evaluated, {'data.name': 'scenes_detection'}),
    *[('eval.sides', (16, 24), evaluated, {'data.name': 'scenes_detection', **beside})
      for beside in ({}, {'eval.canvas': (48, 48)})],
    ('task.absent_as_zero', True, evaluation_of, {}), ('eval.pictures', 0, evaluation_of, {}),
    ('checkpoint.every_steps', 7, due, {}), ('checkpoint.keep', 5, start, {}),
    ('log.every_steps', 7, due, {}),
]
REFUSED = {'task.name', 'student.init', 'teacher.checkpoint', 'teacher.min_metric',
           'memory_limit_gb'}  # by these values; others must work


def outcome(look, config):
  """What was seen, as text that can be compared; a refusal is seen too."""
  try:
    seen = look(config)
  except ValueError as error:
    return f'refused: {error}'
  return repr(jax.tree.map(
      lambda x: (x.shape, x.tobytes()) if isinstance(x, np.ndarray) else str(x), seen))


@functools.cache
def program_before(look, beside):
  return outcome(look, config_of(**dict(beside)))


@pytest.mark.parametrize('field,value,look,beside', [
    pytest.param(*case, id=f'{case[0]}-{case[2].__name__}') for case in CASES])
def test_another_value_of_a_field_is_seen(field, value, look, beside):
  # Steps are traced once; others may show the folder of a test.
  before = (program_before(look, tuple(beside.items()))
            if look in (train_program, prepare_program) else outcome(look, config_of(**beside)))
  after = outcome(look, config_of(field, value, **beside))
  assert before != after, f'config.{field}={value!r} changes nothing'
  assert after.startswith('refused') == (field in REFUSED), after[:200]


@pytest.mark.parametrize('look,beside', {case[2]: case[3] for case in CASES}.items())
def test_the_same_config_looks_the_same(look, beside):
  first, again = outcome(look, config_of(**beside)), outcome(look, config_of(**beside))
  assert first == again


def leaves(config, prefix=''):
  for name, value in config.items():
    if isinstance(value, ConfigDict) and value:
      yield from leaves(value, f'{prefix}{name}.')
    else:
      yield prefix + name


def test_every_field_has_a_case():
  known = {field for field, *_ in CASES}
  for field in leaves(default_config.segmentation()):
    assert field in known or any(name.startswith(f'{field}.') for name in known), (
        f'no case for config.{field}: say in CASES what it changes')
