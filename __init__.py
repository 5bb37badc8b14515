"""tramontane: Mistral-family checkpoints to proven ONNX artifacts for edge devices."""

__version__ = "0.1.0"
