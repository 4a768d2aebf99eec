"""Distillation methods as pure, composable functions; one factory a method."""

from kdseg_jax.distillers.adaptation import adaptation, affinity_adaptation, feature_adaptation
from kdseg_jax.distillers.cirkd import cirkd, cross_image, memory
from kdseg_jax.distillers.cirkd_channels import channels, with_context
from kdseg_jax.distillers.core import (
    Critic,
    Distiller,
    DistillerState,
    DistillInputs,
    Objective,
    Preparation,
    Requires,
    Taps,
    check_requires,
    combine,
    stateless,
)
from kdseg_jax.distillers.crosskd import crosskd
from kdseg_jax.distillers.declaration import declare
from kdseg_jax.distillers.detector_baselines import (
    localization_distillation,
    pkd,
    prediction_mimicking,
    pyramid_fitnets,
)
from kdseg_jax.distillers.features import (
    attention_transfer,
    channel_wise_features,
    channel_wise_logits,
    fitnets,
)
from kdseg_jax.distillers.holistic import holistic
from kdseg_jax.distillers.logits import decoupled, kd
from kdseg_jax.distillers.methods import (
    channel_wise,
    create,
    double_similarity,
    label,
    terms_of,
)
from kdseg_jax.distillers.review import review
from kdseg_jax.distillers.similarity import (
    double_similarity_category,
    double_similarity_pixel,
    intra_class_variation,
)
from kdseg_jax.distillers.skd import pairwise, pixelwise, skd

__all__ = [
    'Critic', 'DistillInputs', 'Distiller', 'DistillerState', 'Objective', 'Preparation',
    'Requires', 'Taps', 'adaptation', 'affinity_adaptation', 'attention_transfer',
    'channel_wise', 'channel_wise_features', 'channel_wise_logits', 'channels',
    'check_requires', 'cirkd', 'combine', 'create', 'cross_image', 'crosskd', 'declare',
    'decoupled', 'double_similarity', 'double_similarity_category', 'double_similarity_pixel',
    'feature_adaptation', 'fitnets', 'holistic', 'intra_class_variation', 'kd', 'label',
    'localization_distillation', 'memory', 'pairwise', 'pixelwise', 'pkd',
    'prediction_mimicking', 'pyramid_fitnets', 'review', 'skd', 'stateless', 'terms_of',
    'with_context',
]
