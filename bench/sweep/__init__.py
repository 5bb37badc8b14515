"""Exports recipes of models for targets, and compares their quality for the bits."""
