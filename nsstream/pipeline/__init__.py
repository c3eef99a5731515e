"""Components, and the run that takes a trace to its twin.

The run itself, `twin.make_twin`, is imported from its module: what only ingests pays for no replay client.
"""

from nsstream.pipeline.plan import parse_duration_s
from nsstream.pipeline.progress import Listener, Progress, Stage

__all__ = ["Listener", "Progress", "Stage", "parse_duration_s"]
