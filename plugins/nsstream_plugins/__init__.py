"""nsstream inside other tools: one module a tool, found by the entry-point group ``nsstream.plugins`` (see `registry`).

Nothing is imported here: a tool that lists its parts starts us many times, and waits each time.
"""
