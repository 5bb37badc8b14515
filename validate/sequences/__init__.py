"""Whole sequences and batches, fed in several ways."""
