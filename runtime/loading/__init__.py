"""Opens an artifact, and holds what its sequences share: graph, tokenizer, limit on memory."""
