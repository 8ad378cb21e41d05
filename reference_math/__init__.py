"""Numpy-only references of every post-training objective."""
