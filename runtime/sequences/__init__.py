"""One sequence of tokens: its cache and buffers, guard, time limit, snapshots and saved form."""
