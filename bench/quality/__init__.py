"""Compares how near quantized models are to the unquantized one, by their bits per weight."""
