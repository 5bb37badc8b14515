"""Files of a checkpoint: opened once and held open, links among them, typed fields of JSON."""
