"""The checkpoint's tokenizer, and its files in an artifact."""
