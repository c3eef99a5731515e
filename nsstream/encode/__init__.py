"""Conversations to bounded integer tokens and back. No torch."""
