"""Processes that commands start: their end, their errors, a pool of them, and Ctrl-C."""
