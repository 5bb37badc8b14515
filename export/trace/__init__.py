"""From the PyTorch model to an ONNX graph."""
