"""The subcommands, one a file: ``add`` declares its arguments, ``main`` does the work."""
