"""Attacks on a twin: what could an outsider learn of the capture that it was made from?

`attack_traces` runs them on any twin, whoever made it. `canaries` plants traffic of its own before a training, `audit`
says what the outcome refutes of a claimed epsilon. Attacks that fail prove nothing; one that succeeds proves a leak.
"""

from nsstream.score.privacy.attack import attack_packets, attack_traces
from nsstream.score.privacy.findings import Finding, Privacy, Verdict

__all__ = ["Finding", "Privacy", "Verdict", "attack_packets", "attack_traces"]
