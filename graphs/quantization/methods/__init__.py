"""How weights are rounded: one method a file."""
