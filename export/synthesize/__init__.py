"""Checkpoints of random weights, as large as a known model."""
