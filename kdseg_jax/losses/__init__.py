"""Loss functions: arrays in, float32 scalar out; see each function for its equation.

Conventions of all: channels last, student first and teacher second, no gradient into the teacher,
`where=` masks in those that name it, `axis_name=` for a batch that is spread over devices. They
need jax alone and work under jit, grad, vmap, remat, shard_map and pmap.
"""

from kdseg_jax.losses import queues
from kdseg_jax.losses.adaptation import autoencoder_reconstruction, feature_adaptation
from kdseg_jax.losses.affinity import pairwise_affinity, scaled_node_size
from kdseg_jax.losses.baselines import attention_transfer, channel_wise, decoupled_kd, fitnets
from kdseg_jax.losses.cross_image import (
    channel_mse,
    channel_vectors,
    cross_image_channel,
    cross_image_pixel,
    memory_similarity,
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
    'attention_transfer',
    'autoencoder_reconstruction',
    'channel_mse',
    'channel_vectors',
    'channel_wise',
    'cross_entropy',
    'cross_image_channel',
    'cross_image_pixel',
    'decoupled_kd',
    'double_similarity_category',
    'double_similarity_pixel',
    'feature_adaptation',
    'fitnets',
    'gradient_penalty',
    'hierarchical_context',
    'hinge_critic',
    'intra_class_variation',
    'memory_similarity',
    'ohem_cross_entropy',
    'pairwise_affinity',
    'pixelwise_kl',
    'queues',
    'resize_bilinear',
    'resize_nearest',
    'scaled_node_size',
    'wasserstein_critic',
    'wasserstein_generator',
]
