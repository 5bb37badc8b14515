"""Each weight and operator by itself, layer by layer."""
