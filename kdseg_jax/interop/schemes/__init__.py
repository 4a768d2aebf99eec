"""Names of PyTorch's layers and of ours, one file a family."""
