"""Which matrix is packed into how many bits, and how each target stores it."""
