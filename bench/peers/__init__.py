"""Other runtimes on the same weights, beside our driver."""
