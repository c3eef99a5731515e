"""Checkpoint to conversations."""

from nsstream.draw.drawer import Drawer

__all__ = ["Drawer"]
