"""nsstream: a live, private twin of a network's traffic.

Data flows one way, and each step is a package of its own:

    capture -> wire + trace -> chunk -> encode -> train (model) -> draw -> assemble -> replay

``docs/design.md`` follows a packet through all of them.
"""

import os

__version__ = "0.1.0"

# OpenMP threads that wait must sleep: they spin by default, and two spinning threads on two busy cores made a training
# step nine times slower than one thread (85 s against 9.4 s asleep and 14.6 s alone; 60 steps, shared 2-core machine,
# 2026-11-21). The runtime reads this when it is loaded, so it stands before anything that loads it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
