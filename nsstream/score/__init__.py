"""How close, how valid and how much of a copy a twin is."""
