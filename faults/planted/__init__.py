"""The planted faults, by the part of an artifact that they damage."""
