"""Runners in Python; each begins with what its environment has to have."""
