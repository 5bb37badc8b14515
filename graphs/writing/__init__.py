"""From the graph in memory to the artifact's files."""
