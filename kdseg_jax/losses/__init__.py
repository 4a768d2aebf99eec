"""Loss functions: arrays in, float32 scalar out; see each function for its equation.

Conventions of all: channels last, student first and teacher second, no gradient into the teacher,
`where=` masks in those that name it, `axis_name=` for a batch that is spread over devices. They
need jax alone and work under jit, grad, vmap, remat, shard_map and pmap. Logits and scores are
floats of any width, features real numbers, neither empty; masks are bool, options finite numbers:
what is otherwise is a ValueError wherever shapes, dtypes and values that are known tell.
"""

from kdseg_jax.losses import queues
from kdseg_jax.losses.adaptation import autoencoder_reconstruction, feature_adaptation
from kdseg_jax.losses.affinity import pairwise_affinity, scaled_node_size
from kdseg_jax.losses.baselines import attention_transfer, channel_wise, decoupled_kd, fitnets
from kdseg_jax.losses.box_coding import (
    anchors,
    centerness,
    decode_deltas,
    decode_distances,
    encode_deltas,
    encode_distances,
    integral,
    points,
)
from kdseg_jax.losses.boxes import box_overlaps, diou, giou, iou_log, pairwise_overlaps
from kdseg_jax.losses.cross_head import (
    align_statistics,
    cross_head_classification,
    cross_head_distribution,
    cross_head_input,
    localization_distillation,
    pearson_features,
    score_weights,
)
from kdseg_jax.losses.cross_image import (
    channel_mse,
    channel_vectors,
    cross_image_channel,
    cross_image_pixel,
    memory_similarity,
)
from kdseg_jax.losses.detection import (
    binary_cross_entropy,
    distribution_focal,
    distribution_kl,
    quality_focal,
    sigmoid_focal,
    smooth_l1,
)
from kdseg_jax.losses.holistic import (
    gradient_penalty,
    hinge_critic,
    wasserstein_critic,
    wasserstein_generator,
)
from kdseg_jax.losses.pixelwise import pixelwise_kl
from kdseg_jax.losses.review import hierarchical_context
from kdseg_jax.losses.similarity import (
    double_similarity_category,
    double_similarity_pixel,
    intra_class_variation,
)
from kdseg_jax.losses.supervised import cross_entropy, ohem_cross_entropy
from kdseg_jax.resizing import resize_bilinear, resize_nearest

__all__ = [
    'align_statistics',
    'anchors',
    'attention_transfer',
    'autoencoder_reconstruction',
    'binary_cross_entropy',
    'box_overlaps',
    'centerness',
    'channel_mse',
    'channel_vectors',
    'channel_wise',
    'cross_entropy',
    'cross_head_classification',
    'cross_head_distribution',
    'cross_head_input',
    'cross_image_channel',
    'cross_image_pixel',
    'decode_deltas',
    'decode_distances',
    'decoupled_kd',
    'diou',
    'distribution_focal',
    'distribution_kl',
    'double_similarity_category',
    'double_similarity_pixel',
    'encode_deltas',
    'encode_distances',
    'feature_adaptation',
    'fitnets',
    'giou',
    'gradient_penalty',
    'hierarchical_context',
    'hinge_critic',
    'integral',
    'intra_class_variation',
    'iou_log',
    'localization_distillation',
    'memory_similarity',
    'ohem_cross_entropy',
    'pairwise_affinity',
    'pairwise_overlaps',
    'pearson_features',
    'pixelwise_kl',
    'points',
    'quality_focal',
    'queues',
    'resize_bilinear',
    'resize_nearest',
    'scaled_node_size',
    'score_weights',
    'sigmoid_focal',
    'smooth_l1',
    'wasserstein_critic',
    'wasserstein_generator',
]
