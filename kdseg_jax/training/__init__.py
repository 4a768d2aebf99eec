"""Training: state, step, loop, checkpoints, devices, optimisers."""
