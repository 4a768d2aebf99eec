"""What an option is if it is not given: results of papers and earlier runs hang on it."""

import inspect

import pytest

from kdseg_jax import losses
from kdseg_jax.losses import queues

LABELS = {'ignore_label': 255}
DEFAULTS = {
    losses.cross_entropy: LABELS | {'align_corners': True},
    losses.ohem_cross_entropy: LABELS | {
        'align_corners': True, 'threshold': 0.7, 'min_kept': 100_000, 'threshold_stride': 1},
    losses.pixelwise_kl: {'temperature': 1, 'form': 'kl', 'reduction': 'mean'},
    losses.pairwise_affinity: {'node_size': None, 'pool': 'max', 'norm_gradient': True,
                               'norm': 'add_eps', 'eps': 1e-8, 'neighbourhood': None},
    losses.channel_wise: {'temperature': 4, 'official_channel_count': None},
    losses.decoupled_kd: LABELS | {'alpha': 1, 'beta': 8, 'temperature': 4},
    losses.cross_image_pixel: {'temperature': 0.1, 'pool': None, 'block_size': None},
    losses.cross_image_channel: {'temperature': 0.1, 'pool': 4, 'block_size': None},
    losses.channel_mse: {'pool': 4},
    losses.channel_vectors: {'pool': 4},
    losses.memory_similarity: {'contrast_where': None, 'temperature': 0.1, 'kd_temperature': 1,
                               'block_size': None},
    losses.hierarchical_context: {'levels': (4, 2, 1)},
    losses.intra_class_variation: LABELS,
    losses.double_similarity_category: {'temperature': 4},
    losses.autoencoder_reconstruction: {'alpha': 1e-7},
    losses.feature_adaptation: {'p': 2, 'q': 2},
    losses.gradient_penalty: {'has_aux': False},
    losses.quality_focal: {'beta': 1},
    losses.sigmoid_focal: {'gamma': 2, 'alpha': 0.25},
    losses.smooth_l1: {'beta': 0},
    losses.distribution_kl: {'temperature': 1, 'reduction': 'sum'},
    losses.cross_head_classification: {'form': 'quality_focal', 'beta': 1},
    losses.cross_head_distribution: {'temperature': 1},
    losses.localization_distillation: {'temperature': 10},
    losses.score_weights: {'uniform': False},
    losses.anchors: {'strides': (8, 16, 32, 64, 128), 'octave_base_scale': 8,
                     'scales_per_octave': 1, 'ratios': (1,), 'center_offset': 0},
    losses.points: {'strides': (8, 16, 32, 64, 128), 'offset': 0.5},
    queues.push_pixels: LABELS | {'per_class': 16},
    queues.push_regions: LABELS,
    queues.sample: {'only_filled': True}}
# Of every loss that has them.
COMMON = {'where': None, 'weights': None, 'normalizer': 1, 'axis_name': None}


@pytest.mark.parametrize('loss', DEFAULTS, ids=lambda loss: loss.__name__)
def test_options_are_what_they_were(loss):
  options = inspect.signature(loss).parameters.items()
  found = {name: option.default for name, option in options if option.default is not option.empty}
  common = {name: found.pop(name) for name in COMMON if name in found}
  assert common == {name: COMMON[name] for name in common}
  assert found == DEFAULTS[loss]
