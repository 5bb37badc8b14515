"""Tokenizers of the driver: one kind a file."""
