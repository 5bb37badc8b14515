"""Headers of tensors in one file of weights, by the kind of file."""
