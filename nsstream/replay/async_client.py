"""AsyncReplayClient: `ReplayClient` for asyncio; its calls may be made by several tasks at once.

Promises: as `ReplayClient`'s. A run that it starts with `controller_timeout_s` is kept alive by a task of its own, as
long as the event loop runs and the client is not closed.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import zmq
import zmq.asyncio

from nsstream.errors import ReplayError
from nsstream.replay.client import COMMAND_OPTIONS, CREDIT, CREDIT_INTERVAL_S, SILENCE_S
from nsstream.replay.codec import encode, make_command
from nsstream.replay.endpoint import check_endpoint, reach
from nsstream.replay.keys import ClientKeys
from nsstream.replay.messages import (
    Accepted,
    Command,
    GetStatus,
    Hello,
    Models,
    Oversize,
    Pause,
    Payload,
    Reply,
    Resume,
    Shutdown,
    Status,
    Stop,
    Subscription,
    Welcome,
)
from nsstream.replay.rate import Rate
from nsstream.replay.receiver import (
    PacketItem,
    PacketReceiver,
    expect,
    no_answer,
    read_published,
    read_reply,
    start_command,
)
from nsstream.replay.sockets import connect

BEATS_A_TIMEOUT = 4  # signs of life within a controller's timeout

_R = TypeVar("_R", bound=Reply)


class AsyncReplayClient:
    """A connection to the replay server at `endpoint`; an asynchronous context manager that closes it.

    Args: as of `ReplayClient`.
    """

    def __init__(self, endpoint: str, timeout_s: float = 5.0, keys: ClientKeys | None = None) -> None:
        self.endpoint = check_endpoint(endpoint, has_keys=keys is not None)
        self._timeout_s = timeout_s
        self._keys = keys
        self._next_id = 1
        self._name = b"a" + secrets.token_bytes(15)
        self._turn = asyncio.Lock()  # one request at a time
        self._context = zmq.asyncio.Context()
        self._socket = self._connect()
        self._beating: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the connection; may be repeated."""
        if self._beating is not None:
            self._beating.cancel()
            with suppress(asyncio.CancelledError):
                await self._beating
            self._beating = None
        self._socket.close()
        self._context.destroy(0)

    async def hello(self) -> Welcome:
        """Agree on a protocol version."""
        return await self._ask(Hello(id=self._new_id()), Welcome)

    async def start(
        self,
        stream: Mapping[str, object] | Sequence[str | Path],
        sink: Mapping[str, object],
        *,
        scenario: Mapping[str, object] | None = None,
        loop: int | None = 1,
        seed: int = 0,
        mtu: int = 1500,
        payload: Payload = "template",
        oversize: Oversize = "clamp",
        testbed: Mapping[str, object] | None = None,
        rate: Rate = "max",
        controller_timeout_s: float | None = None,
        is_exclusive: bool = False,
    ) -> Accepted:
        """Start a run; the arguments are those of `ReplayClient.start`."""
        command = start_command(
            self._new_id(), stream, sink, scenario, loop, seed, mtu, payload, oversize, testbed, rate,
            controller_timeout_s, is_exclusive,
        )  # fmt: skip
        accepted = await self._ask(command, Accepted)
        if controller_timeout_s is not None:
            if self._beating is not None:
                self._beating.cancel()
            self._beating = asyncio.create_task(self._beat(controller_timeout_s / BEATS_A_TIMEOUT))
        return accepted

    async def status(self) -> Status:
        """How the newest run goes."""
        return await self._ask(GetStatus(id=self._new_id()), Status)

    async def stop(self) -> Accepted:
        """Ask the run to end; `status` says when it has."""
        return await self._ask(Stop(id=self._new_id()), Accepted)

    async def pause(self) -> Accepted:
        """Hold the run."""
        return await self._ask(Pause(id=self._new_id()), Accepted)

    async def resume(self) -> Accepted:
        """Let the run go on."""
        return await self._ask(Resume(id=self._new_id()), Accepted)

    async def set_rate(self, rate: Rate) -> Accepted:
        """Go on at another rate: twin seconds a second, a `PacketRate`, a `BitRate`, or "max"."""
        return await self._ask(make_command({"type": "rate", "id": self._new_id(), "rate": rate}), Accepted)

    async def seek(self, twin_time_ns: int) -> Accepted:
        """Go on at another time of the twin, in nanoseconds since the Unix epoch."""
        command = make_command({"type": "seek", "id": self._new_id(), "twin_time_ns": twin_time_ns})
        return await self._ask(command, Accepted)

    async def set_loop(self, loop: int | None) -> Accepted:
        """Play the stream so many times in all; None for ever."""
        return await self._ask(make_command({"type": "loop", "id": self._new_id(), "loop": loop}), Accepted)

    async def models(self, first: int = 0) -> Models:
        """The models that the server offers, from the first-th on; `Models.total` says whether there are more."""
        return await self._ask(make_command({"type": "models", "id": self._new_id(), "first": first}), Models)

    async def shutdown(self) -> Accepted:
        """Ask the server to end, and its run with it."""
        return await self._ask(Shutdown(id=self._new_id()), Accepted)

    async def statuses(self) -> AsyncIterator[Status]:
        """Every status that the server publishes, as `ReplayClient.statuses` gives them."""
        subscription = await self._subscribe("status", "")
        where = reach(subscription.endpoint, self.endpoint)
        with connect(self._context, zmq.SUB, where, self._keys, COMMAND_OPTIONS) as published:
            published.setsockopt(zmq.SUBSCRIBE, b"status")
            while await published.poll(int(SILENCE_S * 1000)):
                yield read_published(await published.recv_multipart())
        raise no_answer(where, SILENCE_S)

    async def packets(self, name: str = "", credit: int = CREDIT) -> AsyncIterator[PacketItem]:
        """Subscribe to packets, as `ReplayClient.packets` does; the subscription begins with the first item."""
        subscription = await self._subscribe("packets", name)
        receiver = PacketReceiver(subscription, credit)
        where = reach(subscription.endpoint, self.endpoint)
        now = asyncio.get_running_loop().time
        with connect(self._context, zmq.DEALER, where, self._keys, {zmq.LINGER: 100}) as connection:
            await connection.send(receiver.credit())
            told_s = heard_s = now()
            try:
                while True:
                    items: list[PacketItem] = []
                    if await connection.poll(int(CREDIT_INTERVAL_S * 1000)):
                        items = receiver.take(await connection.recv_multipart())
                    for item in items:
                        yield item
                    if receiver.is_credit_due or now() - told_s >= CREDIT_INTERVAL_S:
                        await connection.send(receiver.credit())
                        told_s = now()
                    if items:
                        heard_s = now()
                    elif now() - heard_s >= SILENCE_S:
                        await self.status()  # raises where the silence is that of a server that has gone
                        heard_s = now()
            finally:
                with suppress(zmq.ZMQError, asyncio.CancelledError):
                    await connection.send(receiver.leave(), zmq.NOBLOCK)

    async def _beat(self, interval_s: float) -> None:
        """Say often enough that we are there; ends with the run."""
        while True:
            await asyncio.sleep(interval_s)
            with suppress(ReplayError):  # the next may get through; if none does, the server stops the run
                if (await self.status()).state not in ("running", "paused"):
                    return

    async def _subscribe(self, to: Literal["packets", "status"], name: str) -> Subscription:
        command = make_command({"type": "subscribe", "id": self._new_id(), "to": to, "name": name})
        return await self._ask(command, Subscription)

    def _connect(self) -> Any:
        return connect(self._context, zmq.DEALER, self.endpoint, self._keys, COMMAND_OPTIONS, self._name)

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    async def _ask(self, command: Command, expected: type[_R]) -> _R:
        async with self._turn:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await self._socket.send_multipart([b"", encode(command)])
                    while True:
                        reply = read_reply(await self._socket.recv_multipart(), command.id)
                        if reply is not None:
                            return expect(reply, expected, self.endpoint)
            except TimeoutError as err:
                self._socket.close()  # and the request with it, as in `ReplayClient`
                self._socket = self._connect()
                raise no_answer(self.endpoint, self._timeout_s) from err
