"""Reads graphs that anyone exported: which tensor plays which part; sub-graphs that run alone."""
