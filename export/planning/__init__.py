"""Before an export: its sizes and memory, as a plan and a table, and all that can stop it."""
