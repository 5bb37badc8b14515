"""Measures time and memory; most figures are of a whole process, measured from outside."""
