"""Fuzzing of every reader of files that others wrote, by mutations and by coverage."""
