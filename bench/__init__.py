"""What does it cost? Each file measures one thing, as a whole process from outside."""
