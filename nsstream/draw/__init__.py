"""Checkpoint to conversations."""
