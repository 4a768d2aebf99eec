"""Steps and losses of the benchmarks are of what their names say."""

import jax
import pytest
from flax import traverse_util

from experiments.benchmarks import inputs, our_losses, our_steps
from kdseg_jax import default_config, losses


@pytest.mark.parametrize('name, method, own', [
    ('kd_resnet18_128', 'kd', {}),
    ('step_resnet101_8x32x64_bfloat16', 'none', {
        'student.name': 'deeplabv3_resnet101', 'student.dtype': 'bfloat16',
        'train.batch_size': 8, 'augmentation.crop': (32, 64), 'data.size': (32, 64)}),
    ('skd_mobilenetv2_128', 'skd', {'student.name': 'deeplabv3_mobilenetv2'})])
def test_a_step_has_the_model_the_sizes_and_the_precision_of_its_name(name, method, own):
  flat = lambda config: traverse_util.flatten_dict(
      config.to_dict(), sep='.', keep_empty_nodes=True)
  found, defaults = (flat(config) for config in (
      our_steps.create_config(method, inputs.Step.parse(name)),
      default_config.segmentation(method)))
  assert {field: value for field, value in found.items() if value != defaults[field]} == {
      'train.batch_size': 4, 'augmentation.crop': (128, 128), 'data.size': (128, 128),
      'augmentation.scale': (), 'train.steps': 1_000_000, 'optimizer.learning_rate': 1e-4,
      'memory_limit_gb': 100.0, 'student.aux': False} | {
          field: value for field, value in own.items() if value != defaults[field]}


@pytest.mark.parametrize('name, expected', [
    ('pairwise_affinity_nodes', lambda student, arrays: losses.pairwise_affinity(
        student, arrays['teacher'], node_size=(8, 8))),
    ('pairwise_affinity', lambda student, arrays: losses.pairwise_affinity(
        student, arrays['teacher'])),
    ('channel_wise_logits', lambda student, arrays: losses.channel_wise(
        student, arrays['teacher'])),
    ('intra_class_variation', lambda student, arrays: losses.intra_class_variation(
        student, arrays['teacher'], arrays['labels'], num_classes=inputs.CLASSES)),
    ('double_similarity_pixel', lambda student, arrays: losses.double_similarity_pixel(
        [arrays['student_logits'], student], [arrays['teacher_logits'], arrays['teacher']])),
    ('autoencoder_reconstruction', lambda student, arrays: losses.autoencoder_reconstruction(
        arrays['teacher'], student, arrays['code'])),
    ('memory_similarity_pixel', lambda student, arrays: losses.memory_similarity(
        student, arrays['teacher'], arrays['contrast']))])
def test_a_loss_with_a_name_of_its_own_is_this_one(name, expected):
  arrays = inputs.arrays(name, images=2, side=16)
  student = arrays.pop('student')
  text = lambda loss: str(jax.make_jaxpr(jax.value_and_grad(loss))(student, arrays))
  assert text(lambda *given: our_losses._evaluate(name, *given)) == text(expected)
