"""Conversations: an artifact's chat template, and what it may do."""
