"""Trained models out: StableHLO, ONNX, and weights by PyTorch's names, each in a folder."""

from kdseg_jax.interop.exporting.folder import FORMATS, Options, export

__all__ = ['FORMATS', 'Options', 'export']
