"""Choice of the next token, and text from a session, until it stops."""
