"""Checkpoints as they are published: Hugging Face's, Mistral's and llama.cpp's formats."""
