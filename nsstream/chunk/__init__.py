"""Rolling intervals on the UTC grid: packets in, immutable chunk files out."""
