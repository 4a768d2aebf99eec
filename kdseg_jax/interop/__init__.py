"""Weights in from PyTorch, and trained models out."""
