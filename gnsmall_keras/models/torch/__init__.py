"""Checkpoints of PyTorch."""
