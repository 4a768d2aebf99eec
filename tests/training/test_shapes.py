"""Losses that cannot be computed are found by their shapes, before anything is compiled."""

import flax.linen as nn
import jax
import pytest

from configs import quickstart
from kdseg_jax import distillers, models, parallel
from kdseg_jax.distillers import methods
from kdseg_jax.errors import UserError
from kdseg_jax.training import experiment as experiments
from kdseg_jax.training import loop, run, shapes
from tests import toys

SINGLE = [name for name in methods.METHODS if name not in (
    'none', 'cirkd_v2', 'skd', *toys.OF_DETECTORS)]


class Strided(nn.Module):
  """A segmenter whose maps are 1/stride of the image."""

  stride: int = 4
  width: int = 8
  num_classes: int = 11

  @nn.compact
  def __call__(self, image, mask=None, index=None, train=False):
    step = (self.stride, self.stride)
    embedding = nn.Conv(self.width, step, strides=step)(image / 255)
    logits = nn.Conv(self.num_classes, (1, 1))(embedding)
    return logits, {'embedding': embedding, 'logits': logits, 'aux_logits': logits,
                    'pooled': embedding} | {f'stage{i}{kind}': embedding for i in range(1, 5)
                                            for kind in ('', '_preactivation')}


def experiment_of(method, student, teacher, **options):
  config = quickstart.get_config(f'method={method},runlocal')
  config.teacher.checkpoint = 'teacher'
  config.augmentation.crop = (64, 64)
  for term, fields in options.items():
    config.distill[term].update(fields)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(models, 'create', lambda **_: student)
    return experiments.create_experiment(
        config, teacher=toys.loaded(teacher))


@pytest.mark.parametrize('method', SINGLE)
def test_maps_of_one_size_pass(method):
  shapes.check_step(experiment_of(method, Strided(), Strided(width=12)))


# `context` alone compares nothing, `review` brings its maps to the teacher's size, adaptation the
# teacher's to the student's.
@pytest.mark.parametrize('method', [
    method for method in SINGLE if method not in ('context', 'review', 'adaptation')
    and not method.endswith('_adaptation')])
def test_maps_of_other_sizes_are_refused_by_the_name_of_a_term_and_what_mends_it(method):
  experiment = experiment_of(method, Strided(stride=8), Strided(stride=4))
  with pytest.raises(UserError) as error:
    shapes.check_step(experiment)
  message = str(error.value)
  term = message.partition('config.distill.')[2].partition(':')[0]
  assert term in experiment.config.distill
  assert '(8, 8)' in message and '(16, 16)' in message
  assert 'config.student.output_stride' in message
  resizable = 'resize' in experiment.config.distill[term]
  assert (f'config.distill.{term}.resize=True' in message) == resizable


@pytest.mark.parametrize('strides', [(8, 4), (4, 8)])
@pytest.mark.parametrize('method', ['review', 'adaptation'])
def test_what_brings_maps_to_one_size_passes(method, strides):
  shapes.check_step(experiment_of(method, *(Strided(stride=stride) for stride in strides)))


@pytest.mark.parametrize('term', ['pixelwise', 'kd', 'holistic'])
def test_what_the_message_asks_for_mends_it(term):
  shapes.check_step(experiment_of(
      term, Strided(stride=8), Strided(stride=4), **{term: {'resize': True}}))


def test_widths_that_differ_without_a_projection_name_the_term():
  experiment = experiment_of(
      'fitnets', Strided(width=8), Strided(width=12), fitnets={'projection': False})
  with pytest.raises(UserError, match=r'config.distill.fitnets: .*8.*12'):
    shapes.check_step(experiment)


def test_a_run_is_refused_before_its_teacher_is_measured_or_anything_is_compiled(
    tmp_path, monkeypatch):
  config = quickstart.get_config('method=pairwise,runlocal')
  config.teacher.checkpoint = 'teacher'
  teacher = toys.loaded(Strided(stride=8))
  monkeypatch.setattr(models, 'create', lambda **_: Strided(stride=4))
  monkeypatch.setattr(experiments, 'load_teacher', lambda *_, **__: teacher)
  for module, name in ((loop, 'measure_teacher'), (run, 'measure_teacher'),
                       (experiments, 'compiled_once'), (parallel.Program, '__call__')):
    monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail('too late'))
  with pytest.raises(UserError, match='config.distill.pairwise: '):
    loop.train(config, str(tmp_path / 'work'))
  assert not (tmp_path / 'work').exists()


def test_combine_adds_the_names_of_parts_to_errors_and_leaves_bugs_alone():
  def failing(error):
    def loss(inputs):
      raise error
    return distillers.combine({'outer': (1.0, distillers.combine({
        'inner': (1.0, distillers.core.stateless(distillers.Requires(), loss))}))})
  inputs = distillers.DistillInputs(student={}, teacher={})
  for error, kind in ((ValueError('shapes'), ValueError), (UserError('field'), UserError)):
    method = failing(error)
    with pytest.raises(kind, match=f'^outer: inner: {error}$') as raised:
      method.loss(method.init(jax.random.key(0), inputs), inputs)
    assert isinstance(raised.value, UserError) == (kind is UserError)
  method = failing(KeyError('typo'))
  with pytest.raises(KeyError, match="^'typo'$"):
    method.loss(method.init(jax.random.key(0), inputs), inputs)
