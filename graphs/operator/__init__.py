"""The attention operator: its schema, its body in standard ops, the kernel that replaces it."""
