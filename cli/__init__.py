"""The ``tramontane`` command."""
