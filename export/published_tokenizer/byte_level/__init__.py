"""Byte-level BPE as ``tokenizer.json``, from every format that publishes it."""
