"""A GPU as PyTorch sees it: what is created lives there, once this is imported."""

from __future__ import annotations

import torch

torch.set_default_device('cuda')
torch.backends.cudnn.benchmark = True  # its kernels are chosen by trying, as those of XLA are


def start():
  """From here on the peak is that of the calls that count."""
  torch.cuda.synchronize()
  torch.cuda.reset_peak_memory_stats()


def wait():
  """Until all is done that was asked for."""
  torch.cuda.synchronize()


def peak_bytes() -> int:
  """Most bytes that tensors took at a time."""
  return torch.cuda.max_memory_allocated()
