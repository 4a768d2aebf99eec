"""Distillation methods as pure, composable functions; one factory a method."""

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
from kdseg_jax.distillers.holistic import holistic
from kdseg_jax.distillers.methods import create, terms_of
from kdseg_jax.distillers.skd import pairwise, pixelwise, skd

__all__ = [
    'Distiller', 'DistillerState', 'DistillInputs', 'Objective', 'Requires', 'Taps',
    'check_requires', 'combine', 'create', 'holistic', 'pairwise', 'pixelwise', 'skd', 'stateless',
    'terms_of',
]
