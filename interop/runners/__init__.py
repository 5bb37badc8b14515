"""Programs that do one job in another runtime: ``RUNNER job.json`` prints one line of JSON."""
