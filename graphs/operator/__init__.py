"""The sliding-window-attention operator: its schema, and its body in standard ops."""
