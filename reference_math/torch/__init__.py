"""Torch twins of reference_math: same file and function names, any device and dtype."""
