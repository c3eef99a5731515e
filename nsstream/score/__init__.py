"""How close, how valid and how much of a copy a twin is.

`score_traces` measures one trace against another; `verify_trace` checks that every frame of a twin is lawful, and
`verify_alone` does so with no look at the real trace.
"""

from nsstream.score.compare import score_packets, score_traces
from nsstream.score.result import Detector, Measure, Score, Shares
from nsstream.score.verify import Verification, verify_alone, verify_trace

__all__ = [
    "Detector",
    "Measure",
    "Score",
    "Shares",
    "Verification",
    "score_packets",
    "score_traces",
    "verify_alone",
    "verify_trace",
]
