"""Tasks: the supervised loss, the metric, and how predictions are drawn."""

from kdseg_jax.tasks.segmentation import SegmentationTask

__all__ = ['SegmentationTask']
