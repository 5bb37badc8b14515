"""Why does an artifact differ? Every cause is a change to the reference that gives the same."""
