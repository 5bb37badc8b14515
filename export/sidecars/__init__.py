"""Files beside the graph that other runtimes and hubs read."""
