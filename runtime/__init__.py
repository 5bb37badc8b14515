"""The driver: decodes from an artifact with numpy, onnxruntime and sentencepiece alone."""
