"""What every command shares: exit status, output that any terminal takes, commands to paste."""
