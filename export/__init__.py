"""From a checkpoint folder to an artifact folder."""
