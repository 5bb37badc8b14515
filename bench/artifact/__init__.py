"""Speed and memory of one artifact in our driver."""
