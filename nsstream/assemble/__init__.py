"""Conversations to whole, lawful Ethernet frames: `Assembler` takes what was drawn, `Frames` is what is sent.

A room in six steps: `streams` finds the five-tuples and their state, `plan` makes lengths and times lawful, `tcp` gives
segments their numbers, `catalogue` and the body modules say what is inside, `internet` and `transport` write headers,
`emit` is the last loop.
"""

from nsstream.assemble.assembler import Assembler
from nsstream.assemble.frames import Frames

__all__ = ["Assembler", "Frames"]
