"""The model in PyTorch, and its eager sliding-window attention."""
