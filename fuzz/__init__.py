"""Mutation fuzzing of every reader of files that others wrote."""
