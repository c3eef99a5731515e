"""Classes of services, by which private counts say what goes with what: common services alone, others by buckets.

A public list: no class depends on traffic. A service that is not in it shares a bucket with others of its protocol, by
its port.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from nsstream.trace.fields import ICMP, ICMPV6, TCP, UDP

_COMMON: Final = {
    TCP: (21, 22, 23, 25, 53, 80, 110, 135, 139, 143, 443, 445, 502, 993, 1883, 3306, 3389, 5060, 8080, 8443),
    UDP: (53, 67, 123, 137, 138, 161, 443, 500, 514, 1900, 3478, 3702, 5353, 5355),
}
_BUCKETS: Final = 13  # of a protocol's other ports; prime, as ports of a kind have round differences
_ALONE: Final = (ICMP, ICMPV6)


def _begins() -> dict[int, int]:
    """The first class of each protocol's; after the last one are all other protocols."""
    out, at = {}, 0
    for protocol, ports in _COMMON.items():
        out[protocol] = at
        at += len(ports) + _BUCKETS
    for protocol in _ALONE:
        out[protocol] = at
        at += 1
    return out | {-1: at}


_BEGINS: Final = _begins()
SERVICE_CLASSES: Final = _BEGINS[-1] + 1


def service_classes(services: NDArray[np.int64]) -> NDArray[np.int64]:
    """The class (n,) of services (n, 3): protocol, IP version, port (not `flow_schema.RARE_PORT`: the port itself)."""
    protocol, port = services[:, 0], services[:, 2]
    out = np.full(len(services), _BEGINS[-1])
    for number, ports in _COMMON.items():
        known = np.array(ports)
        at = np.minimum(np.searchsorted(known, port), len(known) - 1)
        bucket = len(known) + port % _BUCKETS
        of_protocol = protocol == number
        out[of_protocol] = (_BEGINS[number] + np.where(known[at] == port, at, bucket))[of_protocol]
    for number in _ALONE:
        out[protocol == number] = _BEGINS[number]
    return np.asarray(out, np.int64)
