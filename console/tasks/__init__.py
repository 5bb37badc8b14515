"""Independent tasks of one long work: run in this process, or by workers of a Dask scheduler."""
