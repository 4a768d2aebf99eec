"""Loss functions: arrays in, float32 scalar out; see each function for its equation.

Conventions of all: channels last, student first and teacher second, no gradient into the teacher,
`where=` masks, `axis_name=` for a batch that is spread over devices. They need jax alone and work
under jit, grad, vmap, remat, shard_map and pmap.
"""

from kdseg_jax.losses import queues
from kdseg_jax.losses.affinity import pairwise_affinity, scaled_node_size
from kdseg_jax.losses.cross_image import (
    channel_mse,
    channel_vectors,
    cross_image_channel,
    cross_image_pixel,
    memory_similarity,
)
from kdseg_jax.losses.pixelwise import pixelwise_kl
from kdseg_jax.losses.resizing import resize_bilinear, resize_nearest
from kdseg_jax.losses.supervised import cross_entropy

__all__ = [
    'channel_mse',
    'channel_vectors',
    'cross_entropy',
    'cross_image_channel',
    'cross_image_pixel',
    'memory_similarity',
    'pairwise_affinity',
    'pixelwise_kl',
    'queues',
    'resize_bilinear',
    'resize_nearest',
    'scaled_node_size',
]
