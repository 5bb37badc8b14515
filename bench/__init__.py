"""Measures speed, memory and parity of many artifacts."""
