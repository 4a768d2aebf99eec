"""Trained models in other programs: `load` and what it returns."""

from kdseg_jax.inference.model import Model, load
from kdseg_jax.tasks import Classification, Segmentation
from kdseg_jax.training.inference import Inference

__all__ = ['Classification', 'Inference', 'Model', 'Segmentation', 'load']
