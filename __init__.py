"""tramontane: Mistral-family checkpoints to proven ONNX artifacts for edge devices."""

import os

__version__ = "0.1.0"

# onnxruntime reads this while it is imported, and would write a device id below the user's home
# and ask for its collector's address. Each process of ours imports this package first, and what
# a process starts inherits its environment.
os.environ["ORT_DISABLE_TELEMETRY"] = os.environ.get("ORT_DISABLE_TELEMETRY") or "1"
