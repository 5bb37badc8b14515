"""The parity gate: compares an artifact with the model that it was exported from."""
