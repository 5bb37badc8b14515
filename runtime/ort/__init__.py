"""The driver's use of onnxruntime: sessions, providers and the native library."""
