"""The recipes of the papers against their scripts, and that every pair can be distilled."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import ade20k, camvid_papers, cityscapes, papers, pascal_context, voc
from kdseg_jax import distillers, inference, models
from kdseg_jax.distillers.methods import METHODS
from kdseg_jax.inference.model import create_module
from tests import toys

RECIPES = {'ade20k': ade20k, 'camvid': camvid_papers, 'cityscapes': cityscapes,
           'pascal_context': pascal_context, 'voc': voc}

# What all scripts have in common: SKD's run_train_val.sh with the defaults of train_options.py, and
# CIRKD's with those of train_cirkd.py, train_cirkdv2.py, train_kd.py, train_baseline.py. SGD with
# momentum, one learning rate under a poly schedule of power 0.9, no warm-up and no clipping, all
# parameters decayed, 0.4 on the auxiliary head, aligned corners, mirror images half of the time.
COMMON = {
    'optimizer.name': 'sgd', 'optimizer.schedule': 'poly', 'optimizer.power': 0.9,
    'optimizer.warmup_steps': 0, 'optimizer.momentum': 0.9, 'optimizer.nesterov': False,
    'optimizer.decay': 'all', 'optimizer.clip_norm': 0.0, 'task.auxiliary_weight': 0.4,
    'task.supervised_loss': 'cross_entropy', 'task.align_corners': True, 'augmentation.flip': 0.5,
    'student.output_stride': 8, 'student.dropout': 0.1, 'student.project_dropout': 0.5,
    'student.width': 1.0, 'train.accumulate': 1, 'train.ema_decay': 0.0,
    'data.train_split': 'train', 'data.size': (), 'eval.window': (), 'eval.scales': (1.0,),
    'eval.flip': False,
}
# SKD's critic, D_solver of kd_model.py with --lr-d of train_options.py: weight decay as the
# student's, one step a step of the student.
CRITIC = {
    'critic.steps': 1, 'critic.optimizer.name': 'sgd', 'critic.optimizer.learning_rate': 4e-4,
    'critic.optimizer.momentum': 0.9, 'critic.optimizer.nesterov': False,
    'critic.optimizer.weight_decay': 5e-4, 'critic.optimizer.decay': 'all',
    'critic.optimizer.schedule': 'poly', 'critic.optimizer.power': 0.9,
    'critic.optimizer.warmup_steps': 0, 'critic.optimizer.clip_norm': 0.0,
}
FIELDS = ('train.steps', 'train.batch_size', 'augmentation.crop', 'augmentation.scale',
          'optimizer.learning_rate', 'optimizer.weight_decay')
SCRIPTS = {
    # CIRKD (CVPR 2022), train_scripts/train_cirkd/.
    ('cityscapes', 'cirkd'): (40_000, 16, (512, 1024), (0.5, 2.0), 0.02, 1e-4),
    ('voc', 'cirkd'): (40_000, 16, (512, 512), (0.5, 2.0), 0.02, 1e-4),
    ('ade20k', 'cirkd'): (40_000, 16, (512, 512), (0.5, 2.0), 0.02, 1e-4),
    ('camvid', 'cirkd'): (40_000, 16, (360, 360), (0.5, 2.0), 0.02, 1e-4),
    # CIRKD, second version (2025), scripts/train_cirkdv2/.
    ('cityscapes', 'cirkd_v2'): (80_000, 8, (512, 1024), (0.5, 2.0), 0.01, 1e-4),
    ('voc', 'cirkd_v2'): (80_000, 16, (512, 512), (0.5, 2.0), 0.02, 1e-4),
    ('ade20k', 'cirkd_v2'): (80_000, 16, (512, 512), (0.5, 2.0), 0.02, 1e-4),
    # SKD (journal), run_train_val.sh, its scale in dataset/datasets.py.
    ('cityscapes', 'skd'): (40_000, 8, (512, 512), (0.7, 2.1), 0.01, 5e-4),
    # Knowledge adaptation (CVPR 2019), implementation details; crops and scales are DeepLab's.
    ('cityscapes', 'adaptation'): (90_000, 16, (769, 769), (0.5, 2.0), 0.007, 4e-5),
    ('voc', 'adaptation'): (30_000, 16, (513, 513), (0.5, 2.0), 0.007, 4e-5),
    ('pascal_context', 'adaptation'): (30_000, 16, (513, 513), (0.5, 2.0), 0.007, 4e-5),
}
# Where knowledge adaptation differs from what the scripts have in common.
ADAPTATION = {'optimizer.decay': 'kernels', 'student.output_stride': 16,
              'student.project_dropout': 0.1, 'student.aux': False}
# Channels of the heads: the models/ and networks/ of each code.
HEADS = {
    'cirkd': {'deeplabv3_resnet101': 256, 'deeplabv3_resnet18': 128, 'deeplabv3_mobilenetv2': 128,
              'pspnet_resnet18': 128},
    'cirkd_v2': {'deeplabv3_resnet101': 512, 'deeplabv3_resnet18': 512,
                 'deeplabv3_mobilenetv2': 128, 'pspnet_resnet18': 128, 'pspnet_resnet101': 256},
    'skd': {'pspnet_resnet101': 512, 'pspnet_resnet18': 128},
}
PAIRS = {'cirkd': ('deeplabv3_resnet101', 'deeplabv3_resnet18'),
         'cirkd_v2': ('deeplabv3_resnet101', 'deeplabv3_resnet18'),
         'skd': ('pspnet_resnet101', 'pspnet_resnet18'),
         'adaptation': ('deeplabv3plus_resnet50', 'plain_mobilenetv2')}


def field(config, path):
  for name in path.split('.'):
    config = config[name]
  return config


@pytest.mark.parametrize('role', ['teacher', 'student'])
@pytest.mark.parametrize('data, settings', SCRIPTS)
def test_settings_are_those_of_the_scripts(data, settings, role):
  config = RECIPES[data].get_config(f'settings={settings},role={role}')
  expected = COMMON | dict(zip(FIELDS, SCRIPTS[data, settings], strict=True))
  if settings == 'skd':
    expected |= CRITIC
  if settings == 'adaptation':
    expected |= ADAPTATION
  expected['student.name'] = PAIRS[settings][role == 'student']
  assert {path: field(config, path) for path in expected} == expected
  assert config.data.name == data and config.role == role


@pytest.mark.parametrize('settings, name', [
    (settings, name) for settings, heads in HEADS.items() for name in heads])
def test_models_are_those_of_the_scripts(settings, name):
  student = voc.get_config(f'settings={settings},model={name}').student
  model = inference.model.create_module(student, 21)
  assert model.head.channels == HEADS[settings][name]
  is_resnet = 'resnet' in name
  assert (model.auxiliary_head is not None) == is_resnet  # in all codes, on ResNets alone
  if is_resnet:
    assert model.backbone.deep_stem  # in all codes
    assert model.backbone.ceil_mode == (settings == 'skd')  # pspnet_combine.py alone


def test_resnet_d_has_its_own_stem():
  student = voc.get_config('settings=skd,model=pspnet_resnet50d').student
  assert student.ceil_mode and student.aux and 'deep_stem' not in student
  model = inference.model.create_module(student, 21)
  assert model.backbone.stem_channels == (32, 32, 64)


@pytest.mark.parametrize('model, millions', [
    ('', 2.11), ('deeplabv3plus_xception65', 41.05), ('deeplabv3plus_xception41', 28.1)])
def test_models_of_knowledge_adaptation(model, millions):
  """MobileNetV2 as in its own paper, without pyramid; Xception with the images that it expects."""
  student = voc.get_config(f'settings=adaptation,model={model}').student
  built = create_module(student, 21)
  assert models.complexity(built, (65, 65)).params == pytest.approx(1e6 * millions, rel=3e-3)
  assert built.backbone.output_stride == 16 and built.auxiliary_head is None
  assert (built.preprocessing.mean == (127.5,) * 3) == ('xception' in model)


@pytest.mark.parametrize('recipe, train_on, data, split, steps', [
    (voc, '', 'voc', 'train', 30_000), (voc, 'coco', 'coco_voc', 'train', 300_000),
    (cityscapes, '', 'cityscapes', 'train', 90_000),
    (cityscapes, 'coarse', 'cityscapes_coarse', 'train_extra', 90_000),
    (cityscapes, 'trainval', 'cityscapes', 'train+val', 90_000)])
def test_what_knowledge_adaptation_trains_on(recipe, train_on, data, split, steps):
  config = recipe.get_config(f'settings=adaptation,role=teacher,train_on={train_on}')
  assert (config.data.name, config.data.train_split, config.train.steps) == (data, split, steps)
  assert (config.eval.split, config.augmentation) == (
      'val', recipe.get_config('settings=adaptation').augmentation)


def test_wrong_images_to_train_on_are_refused():
  with pytest.raises(ValueError, match="Unknown train_on: 'cocoa'. Did you mean 'coco'"):
    voc.get_config('train_on=cocoa')
  with pytest.raises(ValueError, match="Unknown argument of the recipe: 'train_on'"):
    ade20k.get_config('train_on=coco')


# term -> weight and the constants of the loss, by the sources named.
ADVERSARIAL = {  # CIRKD, train_kd.py: --lambda-adv 0.001 --lambda-d 0.1; losses/adv.py
    'weight': 0.001, 'critic_weight': 0.1, 'critic_loss': 'hinge', 'conditional': False,
    'input_norm': True, 'gradient_penalty_weight': 0.0, 'width': 1.0}
KD = {'weight': 1.0, 'temperature': 1.0, 'tap': 'logits'}  # --lambda-kd 1 --kd-temperature 1
EMBEDDING = {'student_tap': 'embedding', 'teacher_tap': 'embedding'}
# The defaults of train_cirkd.py and the paper: lambdas, queues, numbers of contrast samples.
CROSS_IMAGE = {'weight': 1.0, 'temperature': 0.1, 'pool': None, **EMBEDDING}
MEMORY = {
    'weight': 1.0, 'pixel_weight': 0.1, 'region_weight': 0.1, 'pixel_slots': 20_000,
    'region_slots': 2_000, 'pixel_samples': 4_096, 'region_samples': 1_024, 'temperature': 0.1,
    'kd_temperature': 1.0, 'pixels_per_class': 16, 'anchors_per_image': None, **EMBEDDING}
TERMS = {
    # Liu et al., CVPR 2019: eq. 1, eq. 2, section 3.2; lambda_1 and lambda_2 in section 3.3; the
    # gradient penalty's 10 is that of Gulrajani et al.
    'skd': {
        'pixelwise': {'weight': 10.0, 'temperature': 1.0, 'form': 'kl', 'reduction': 'mean',
                      'tap': 'logits'},
        'pairwise': {'weight': 10.0, 'node_size': None, 'node_scale': None, 'norm_gradient': True,
                     'neighbourhood': None, **EMBEDDING},
        'holistic': {'weight': 0.1, 'conditional': True, 'critic_loss': 'wasserstein',
                     'gradient_penalty_weight': 10.0, 'input_norm': False, 'width': 1.0,
                     'tap': 'logits'},
    },
    # SKD's run_train_val.sh (--lambda-pi 10 --lambda-pa 0.5 --pool-scale 0.5 --lambda-d 0.1, which
    # weighs the student's adversarial term too), train_options.py (wgan-gp, --lambda-gp 10,
    # preprocess-GAN-mode 1), criterion.py.
    'skd_journal': {
        'pixelwise': {'weight': 10.0, 'temperature': 1.0, 'form': 'cross_entropy',
                      'reduction': 'sum_over_batch', 'tap': 'logits'},
        'pairwise': {'weight': 0.5, 'node_scale': 0.5, 'node_size': None, 'pool': 'max',
                     'norm_gradient': False, 'norm': 'add_eps', 'eps': 1e-8,
                     'neighbourhood': None, **EMBEDDING},
        'holistic': {'weight': 0.1, 'critic_weight': 0.1, 'conditional': False,
                     'input_norm': True, 'critic_loss': 'wasserstein',
                     'gradient_penalty_weight': 10.0, 'width': 1.0, 'tap': 'logits'},
    },
    # CIRKD's train_scripts/train_kd/train_skd.sh, train_ifvd.sh, ..., and its losses/.
    'skd_cirkd': {
        'kd': KD, 'adversarial': ADVERSARIAL,
        'pairwise': {'weight': 10.0, 'node_size': 2, 'node_scale': None, 'pool': 'max',
                     'norm_gradient': True, 'norm': 'clamp', 'eps': 1e-12, 'neighbourhood': None,
                     **EMBEDDING},
    },
    'adversarial': {'adversarial': ADVERSARIAL},
    'kd': {'kd': KD},
    'intra_class_variation+kd+adversarial': {
        'kd': KD, 'adversarial': ADVERSARIAL,
        'intra_class_variation': {'weight': 20.0, **EMBEDDING}},
    'channel_wise+adversarial': {
        'kd': KD, 'adversarial': ADVERSARIAL,
        'channel_wise_features': {'weight': 50.0, 'temperature': 4.0, 'projection': None,
                                  **EMBEDDING},
        'channel_wise_logits': {'weight': 3.0, 'temperature': 4.0, 'tap': 'logits'}},
    'attention_transfer+kd': {'kd': KD, 'attention_transfer': {'weight': 10_000.0, **EMBEDDING}},
    'fitnets+kd': {'kd': KD, 'fitnets': {'weight': 10.0, 'projection': True, **EMBEDDING}},
    'double_similarity': {
        'double_similarity_pixel': {
            'weight': 1000.0, 'taps': ('aux_logits', 'embedding', 'logits')},
        'double_similarity_category': {'weight': 10.0, 'temperature': 4.0, 'tap': 'logits'}},
    'cirkd': {'kd': KD, 'cross_image': CROSS_IMAGE, 'memory': MEMORY},
    # scripts/train_cirkdv2/cityscapes/deeplabv3_resnet18.sh: --lambda-fitnet 1
    # --lambda-minibatch-channel 1 --lambda-memory-channel 0.1 --lambda-channel-kd 100; the context
    # block goes with FitNets in train_cirkdv2.py.
    'cirkd_v2+context': {
        'kd': KD, 'cross_image': CROSS_IMAGE, 'memory': MEMORY,
        'fitnets': {'weight': 1.0, 'projection': True, **EMBEDDING},
        'channels': {'weight': 1.0, 'cross_weight': 1.0, 'mse_weight': 100.0,
                     'memory_weight': 0.1, 'slots': 10_000, 'samples': 2_048, 'pool': 4,
                     'temperature': 0.1, **EMBEDDING},
        'context': {'weight': 1.0, 'tap': 'embedding'}},
}


@pytest.mark.parametrize('method', TERMS)
def test_weights_and_options_are_those_of_the_sources(method):
  distill = cityscapes.get_config(f'method={method}').distill.to_dict()
  assert set(distill) == set(TERMS[method])
  for term, expected in TERMS[method].items():
    assert {name: distill[term][name] for name in expected} == expected, term
    assert not distill[term].get('resize', False)


@pytest.mark.parametrize('method', ['cirkd', 'memory', 'cirkd_v2', 'cirkd_v2+context', 'kd+memory'])
@pytest.mark.parametrize('recipe, settings, weight', [
    # train_scripts/train_cirkd/voc: --lambda-memory-pixel 0.01 --lambda-memory-region 0.01.
    (voc, 'cirkd', 0.01), (voc, 'skd', 0.01),
    # scripts/train_cirkdv2/pascal_voc has neither flag: the default of train_cirkdv2.py.
    (voc, 'cirkd_v2', 0.1),
    (ade20k, 'cirkd', 0.1), (ade20k, 'cirkd_v2', 0.1), (cityscapes, 'cirkd', 0.1)])
def test_memory_weights_are_those_of_the_data_sets_scripts(recipe, settings, weight, method):
  memory = recipe.get_config(f'settings={settings},method={method}').distill.memory
  assert (memory.pixel_weight, memory.region_weight) == (weight, weight)


def test_the_maps_and_nodes_of_skd_are_those_of_its_script():
  """65x65 maps of crops of 512 and 3x3 nodes, the last of one pixel: resnet.py's pooling."""
  student = cityscapes.get_config('settings=skd').student
  student.width = 0.125
  taps = taps_of_student(student, (512, 512))
  assert taps['embedding'].shape[1:3] == taps['logits'].shape[1:3] == (65, 65)
  student, teacher = (np.ones((1, 65, 65, 2), np.float32) for _ in range(2))
  teacher[:, 64, 64, 0] = 7  # so that its cosine to another node is 8 / 10
  terms = distillers.terms_of('skd_journal')
  method = distillers.create({'pairwise': terms['pairwise']})
  inputs = distillers.DistillInputs({'embedding': student}, {'embedding': teacher}, step=0)
  _, (_, metrics) = jax.jit(method.loss)(method.init(jax.random.key(0), inputs), inputs)
  # Of 9 x 9 pairs those of the last node with another, both ways.
  np.testing.assert_allclose(metrics['pairwise/raw'], 16 * 0.2**2 / 81, rtol=1e-4)


@pytest.mark.parametrize('data, recipe', RECIPES.items())
def test_each_recipe_has_its_data_and_refuses_other_settings(recipe, data):
  assert recipe.get_config('settings=skd').data.name == data
  with pytest.raises(ValueError, match="Unknown settings: 'cirk'. Did you mean 'cirkd'"):
    recipe.get_config('settings=cirk')


@pytest.mark.parametrize('recipe', RECIPES.values())
def test_what_the_docstrings_name_exists(recipe):
  text = recipe.__doc__
  methods = re.findall(r'method=([\w+]+)', text)
  assert methods
  for method in methods:
    distillers.terms_of(method)
  for settings in re.findall(r'settings=(\w+)', text):
    assert settings in papers.SETTINGS
  for path in re.findall(r'--config\.distill\.(\w+\.\w+)', text):
    config = recipe.get_config('method=skd_journal+channel_wise')
    assert field(config.distill, path) is not None


def taps_of_student(student, size):
  model = inference.model.create_module(student, 5)
  image = jnp.zeros((2, *size, 3), jnp.uint8)
  variables = jax.eval_shape(lambda: model.init({'params': jax.random.key(0)}, image[:1]))
  return jax.eval_shape(lambda v: model.apply(v, image)[1], variables)


def initialized(method, inputs):
  """A method's state by its shapes, after its preparation if it has one."""
  def init():
    key, prepare = jax.random.key(0), method.prepare
    return method.init(key, inputs) if prepare is None else method.init(
        key, inputs, prepared=prepare.finish(prepare.init(key, inputs)))
  return jax.eval_shape(init)


@pytest.mark.parametrize('model', [
    'pspnet_resnet18', 'pspnet_mobilenetv2', 'deeplabv3_mobilenetv2', 'espnet', 'espnet_c'])
def test_the_methods_can_distil_every_student(model):
  size = (64, 96)
  teacher = voc.get_config('settings=skd,role=teacher,runlocal').student
  teacher.ceil_mode = 'resnet' in model
  teacher = taps_of_student(teacher, size)
  names = [name for name in METHODS if name not in ('none', *toys.OF_DETECTORS)]
  if model == 'espnet':  # its logits are at full size: what can resize them, and features
    names = ['pixelwise', 'pairwise', 'holistic', 'skd', 'skd_journal', 'skd_cirkd', 'kd',
             'fitnets', 'attention_transfer', 'adversarial', 'review']
  student = voc.get_config(f'settings=skd,model={model},runlocal').student
  taps = taps_of_student(student, size)
  for name in names:
    config = voc.get_config(f'settings=skd,method={name},model={model},runlocal')
    method = distillers.create(config.distill.to_dict())
    batch = {'image': jax.ShapeDtypeStruct((2, *size, 3), jnp.uint8),
             'label': jax.ShapeDtypeStruct((2, *size), jnp.uint8),
             'mask': jax.ShapeDtypeStruct((2, *size), bool),
             'index': jax.ShapeDtypeStruct((2,), jnp.int32)}
    inputs = distillers.DistillInputs(
        student=taps, teacher=teacher, batch=batch, rng=jax.random.key(0), step=0)
    distillers.check_requires(method.requires, inputs)
    state = initialized(method, inputs)
    loss, _ = jax.eval_shape(method.loss, state, inputs)
    assert loss.shape == () and loss.dtype == jnp.float32, name


@pytest.mark.parametrize('method', ['kd', 'pixelwise', 'fitnets', 'adversarial', 'adaptation'])
def test_adapted_students_and_their_teacher_are_compared_at_one_size(method):
  """Logits and features of the student at stride 16, those of the teacher's decoder at 4."""
  size = (64, 96)
  config = pascal_context.get_config(f'settings=adaptation,method={method},runlocal')
  teacher = pascal_context.get_config('settings=adaptation,role=teacher,runlocal')
  taps = [taps_of_student(one.student, size) for one in (config, teacher)]
  assert [tap['logits'].shape[1:3] for tap in taps] == [(4, 6), (16, 24)]
  batch = {'image': jax.ShapeDtypeStruct((2, *size, 3), jnp.uint8),
           'mask': jax.ShapeDtypeStruct((2, *size), bool)}
  inputs = distillers.DistillInputs(*taps, batch=batch, rng=jax.random.key(0), step=0)
  distiller = distillers.create(config.distill.to_dict())
  assert jax.eval_shape(distiller.loss, initialized(distiller, inputs), inputs)[0].shape == ()
  if method == 'fitnets':
    assert not config.distill.fitnets.projection  # both are 256 wide


def test_a_method_brings_the_settings_of_its_script():
  of = lambda arg: (lambda config: (config.train.steps, config.train.batch_size,
                                    config.optimizer.learning_rate))(cityscapes.get_config(arg))
  assert of('method=cirkd_v2+context') == of('settings=cirkd_v2') == (80_000, 8, 0.01)
  assert of('method=skd_journal') == of('settings=skd') != of('method=skd')
  assert of('method=adaptation') == of('settings=adaptation') == (90_000, 16, 0.007)
  assert of('method=cirkd') == of(None) == of('settings=cirkd')
  assert of('method=cirkd_v2,settings=cirkd') == of('settings=cirkd')
  with pytest.raises(ValueError, match='cirkd_v2 and skd. Say which: settings='):
    cityscapes.get_config('method=cirkd_v2+skd_journal')
