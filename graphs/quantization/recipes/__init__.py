"""The recipes: for each, a file that says how every matrix is stored."""
