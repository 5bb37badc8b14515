"""The operator, the passes over its graph, and the way to the disk."""
