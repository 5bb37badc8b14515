"""Quantization: the weight formats, and the passes that store weights and cache in few bits."""
