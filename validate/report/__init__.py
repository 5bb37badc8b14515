"""How is a verdict written down, for people and for machines? From the content alone."""
