"""Drafts: tokens guessed from the text before, and how much time they may lose."""
