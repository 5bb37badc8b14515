"""Architectures of Hugging Face's ``config.json``, an object each."""
