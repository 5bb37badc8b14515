"""Runs artifacts in other runtimes and compares the results with our driver's."""
