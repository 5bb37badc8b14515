"""GGUF files: config, tensors and tokenizer."""
