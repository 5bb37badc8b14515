"""The operator's own kernel: a library that onnxruntime loads. C++ in ``source``, built here."""
