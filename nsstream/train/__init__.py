"""Seed training and fine-tuning of a model on a chunk."""
