"""Environments in which other runtimes run: Python, Node, emulators, browsers."""
