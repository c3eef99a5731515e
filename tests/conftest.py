"""What all tests share: this directory on the path (for `made_traffic`), and how examples are drawn.

No deadline: the first example of a law pays for numba's compiler, and nothing here asserts how long anything takes. The
same examples every time, so that a change is judged and not the luck of the day; `HYPOTHESIS_PROFILE=explore` draws new
ones, many.
"""

import os

from hypothesis import settings

settings.register_profile("nsstream", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "nsstream"))
