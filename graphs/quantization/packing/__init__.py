"""The packers: how each target stores matrices in few bits, and what of it lies on disk."""
