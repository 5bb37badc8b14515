"""Memory and time of exports."""
