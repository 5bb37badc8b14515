"""The tokenizer of a checkpoint as the driver reads it, and its files in an artifact."""
