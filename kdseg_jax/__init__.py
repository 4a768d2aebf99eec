"""kdseg_jax: knowledge distillation of dense prediction as pure, composable functions."""

__version__ = '0.1.0'
