"""The pages of docs/ that are written from what several benchmarks measured."""
