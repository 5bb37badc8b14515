"""Likely causes of a failure: changes to the reference that give the artifact's output."""
