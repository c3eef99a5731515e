"""The ZeroMQ server that plays twins, its messages, sinks and client.

What is exported here loads neither torch nor numba; the server (`nsstream.replay.server`) is a process of its own.
"""

from nsstream.replay.batch import End, PacketBatch
from nsstream.replay.client import RefusedError, ReplayClient
from nsstream.replay.messages import Status
from nsstream.replay.process import spawn_server
from nsstream.replay.rate import BitRate, PacketRate
from nsstream.replay.receiver import Missed

__all__ = [
    "BitRate",
    "End",
    "Missed",
    "PacketBatch",
    "PacketRate",
    "RefusedError",
    "ReplayClient",
    "Status",
    "spawn_server",
]
