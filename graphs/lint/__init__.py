"""Finds what is wrong, slow or large in any exporter's graph, by reading it alone."""
