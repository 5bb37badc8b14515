"""How large activations get: the reference model, run on text."""
