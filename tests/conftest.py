"""What all tests share: this directory on the path (for `made_traffic`), and no deadline on examples.

The first example of a law pays for numba's compiler, and nothing here asserts how long anything takes.
"""

from hypothesis import settings

settings.register_profile("nsstream", deadline=None)
settings.load_profile("nsstream")
