"""nsstream: a live, private twin of a network's traffic.

Data flows one way, and each step is a package of its own:

    capture -> wire + trace -> chunk -> encode -> train (model) -> draw -> assemble -> replay

``docs/design.md`` follows a packet through all of them.
"""

__version__ = "0.1.0"
