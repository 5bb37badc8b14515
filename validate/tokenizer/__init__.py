"""Whether an artifact's tokenizer and chat templates are the checkpoint's."""
