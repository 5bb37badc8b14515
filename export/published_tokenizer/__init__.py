"""Tokenizers as checkpoints publish them: which files there are, and what each format holds."""
