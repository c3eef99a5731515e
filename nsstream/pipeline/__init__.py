"""Components, and the run that takes a trace to its twin."""

from nsstream.pipeline.plan import parse_duration_s
from nsstream.pipeline.progress import Listener, Progress, Stage
from nsstream.pipeline.twin import Twin, TwinConfig, make_twin

__all__ = ["Listener", "Progress", "Stage", "Twin", "TwinConfig", "make_twin", "parse_duration_s"]
