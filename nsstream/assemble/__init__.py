"""Conversations to lawful frames."""
