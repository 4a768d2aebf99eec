"""Distillation methods as pure, composable functions; one factory a method."""

from kdseg_jax.distillers.cirkd import cirkd, cross_image, memory
from kdseg_jax.distillers.cirkd_channels import channels, with_context
from kdseg_jax.distillers.core import (
    Distiller,
    DistillerState,
    DistillInputs,
    Objective,
    Requires,
    Taps,
    check_requires,
    combine,
    stateless,
)
from kdseg_jax.distillers.methods import create, terms_of
from kdseg_jax.distillers.skd import pairwise, pixelwise

__all__ = [
    'Distiller', 'DistillerState', 'DistillInputs', 'Objective', 'Requires', 'Taps',
    'channels', 'check_requires', 'cirkd', 'combine', 'create', 'cross_image', 'memory', 'pairwise',
    'pixelwise', 'stateless', 'terms_of', 'with_context',
]
