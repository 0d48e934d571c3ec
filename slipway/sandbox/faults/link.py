"""One connection through a door: two ends, what passes between them, and what goes wrong.

A door without faults only copies. With faults it looks at each *turn*: bytes of the client that
follow bytes of the server, or begin the connection. Where HTTP can be read, a turn that begins
with a request line is a request; in TLS that stays closed every turn counts for latency, and the
first one for everything else. Nothing has to be understood of the rest, so a fault takes hold of
connections that were open before it, and nobody is cut off when it comes or goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from slipway.sandbox.faults.answers import Dialect, answer
from slipway.sandbox.faults.model import Fault, Kind
from slipway.sandbox.faults.plan import SERVED, Chances, Plan, begins_request

_DIAL_TIMEOUT_S = 10.0
_LINGER_S = 5.0  # how long an upload that nobody reads any more may go on after its answer
_HIGH_WATER_BYTES = 1 << 20
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close sends RST


@dataclass(frozen=True, slots=True)
class Tls:
    """What it takes to look into TLS: our certificate to clients, their authority to the server.

    Args:
        inwards: server side, for who dials the door.
        outwards: client side, for the server behind.
    """

    inwards: ssl.SSLContext
    outwards: ssl.SSLContext


@dataclass(slots=True)
class Behaviour:
    """What all connections of one door have in common; `faults` changes while they live.

    Args:
        host: of the server behind, on loopback.
        port: of the server behind.
        dialect: in whose words an error is answered.
        faults: those in force.
        chances: their random numbers.
    """

    host: str
    port: int
    dialect: Dialect
    faults: tuple[Fault, ...]
    chances: Chances


class End(asyncio.Protocol):
    """One end of a link; tells the link, and stops its other end while it is full."""

    def __init__(
        self, received: Callable[[bytes], None], ended: Callable[[End], None], lost: _Lost
    ) -> None:
        """Remember whom to tell."""
        self.transport: asyncio.Transport | None = None
        self.other: End | None = None
        self.ended = False
        self._received, self._tell_ended, self._tell_lost = received, ended, lost
        self._held: set[str] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)
        asyncio.get_running_loop().call_soon(self._pause_if_held)

    def _pause_if_held(self) -> None:
        if self._held and self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Pass on."""
        self._received(data)

    def eof_received(self) -> bool:
        """Pass the end on; the other direction stays open where the transport can do that."""
        self.ended = True
        self._tell_ended(self)
        return self.transport is not None and self.transport.can_write_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass the loss on."""
        self._tell_lost(self, exc)

    def pause_writing(self) -> None:
        """Read nothing more from the other end."""
        if self.other is not None:
            self.other.hold("full")

    def resume_writing(self) -> None:
        """Read from the other end again."""
        if self.other is not None:
            self.other.release("full")

    def hold(self, reason: str) -> None:
        """Read nothing until every reason is released."""
        self._held.add(reason)
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def release(self, reason: str) -> None:
        """Drop one reason."""
        self._held.discard(reason)
        if not self._held and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def write(self, data: bytes) -> None:
        """Send, unless the connection is gone."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def write_end(self) -> None:
        """Say that nothing more comes."""
        if self.transport is None or self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            with contextlib.suppress(OSError):
                self.transport.write_eof()
        else:
            self.transport.close()

    def close(self) -> None:
        """Send what is left, then end."""
        if self.transport is not None:
            self.transport.close()

    def reset(self) -> None:
        """End at once, with RST to the peer."""
        if self.transport is None:
            return
        found = self.transport.get_extra_info("socket")
        if found is not None:
            with contextlib.suppress(OSError):
                found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()


_Lost = Callable[[End, Exception | None], None]


class Link:
    """One connection of a client, and ours to the server behind.

    Args:
        behaviour: of the door; read at every turn.
        tls: given when this connection is looked into.
        readable: whether HTTP can be read in it.
        gone: called once when both ends are closed.
    """

    def __init__(
        self,
        behaviour: Behaviour,
        *,
        tls: Tls | None,
        readable: bool,
        gone: Callable[[Link], None],
    ) -> None:
        """Begin unconnected."""
        self.readable = readable
        self._behaviour, self._tls, self._gone = behaviour, tls, gone
        self._server_spoke = True  # the first bytes of a connection are a turn of the client
        self._asked = False
        self._discards = False
        self._left: int | None = None  # bytes of the answer that still pass
        self._ending: Fault | None = None
        self._closed = False
        self._early: list[bytes] | None = []  # what came before both ends were there
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self.heard_s = 0.0
        self.client = End(self._from_client, self._end_of, self._loss_of)
        self.server = End(self._from_server, self._end_of, self._loss_of)
        self.client.other, self.server.other = self.server, self.client

    @property
    def is_quiet(self) -> bool:
        """Whether the server had the last word: nothing is lost when the link ends now."""
        return self._server_spoke

    def start(self) -> None:
        """Dial the server; nothing is read from the client before it answers."""
        self._task = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        # Not in `connection_made`: Python 3.11.2 (Debian 12) begins to read after it all the same,
        # and the client's first bytes of TLS would be taken for its request.
        self.client.hold("dial")
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_DIAL_TIMEOUT_S):
                await loop.create_connection(
                    lambda: self.server,
                    self._behaviour.host,
                    self._behaviour.port,
                    ssl=self._tls.outwards if self._tls else None,
                )
                if self._tls is not None and self.client.transport is not None:
                    self.client.transport = await loop.start_tls(
                        self.client.transport, self.client, self._tls.inwards, server_side=True
                    )
        except (OSError, TimeoutError):  # ssl.SSLError is an OSError
            self.reset()
            return
        if self._closed:  # the client left meanwhile
            self.server.reset()
            return
        early, self._early = self._early, None
        if early:
            self._from_client(b"".join(early))
        self.client.release("dial")

    def _from_client(self, data: bytes) -> None:
        if self._early is not None:  # TLS hands it over before it says that it is there
            self._early.append(data)
            return
        if self._discards:
            return
        turn, self._server_spoke = self._server_spoke, False
        plan = self._plan(data) if turn else SERVED
        if plan.delay_s > 0:
            self.client.hold("delay")
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(plan.delay_s, self._late, plan, data)
        else:
            self._carry_out(plan, data)

    def _plan(self, data: bytes) -> Plan:
        behaviour = self._behaviour
        if not behaviour.faults:
            self._left = None
            return SERVED
        if self.readable:
            if not begins_request(data):
                return SERVED
            self._left = None
            return behaviour.chances.plan(behaviour.faults)
        asked, self._asked = self._asked, True
        # Nobody can answer in TLS that is closed; the door ends such connections by and by.
        faults = tuple(one for one in behaviour.faults if one.kind is not Kind.ERROR)
        return behaviour.chances.plan(faults, only_latency=asked)

    def _late(self, plan: Plan, data: bytes) -> None:
        self.client.release("delay")
        self._carry_out(plan, data)

    def _carry_out(self, plan: Plan, data: bytes) -> None:
        fault = plan.ending
        if fault is None:
            self.server.write(data)
        elif fault.kind is Kind.ERROR:
            self._answer(fault)
        elif fault.after_bytes == 0:
            self._break(fault)
        else:
            self._ending, self._left = fault, fault.after_bytes
            self.server.write(data)

    def _answer(self, fault: Fault) -> None:
        """Answer in the server's place; an upload may run out, so that the answer is read."""
        self._discards = True
        self.server.reset()
        self.client.write(answer(self._behaviour.dialect, fault))
        self._timer = asyncio.get_running_loop().call_later(_LINGER_S, self.client.close)
        self.client.write_end()

    def _from_server(self, data: bytes) -> None:
        self._server_spoke = True
        self.heard_s = asyncio.get_running_loop().time()
        if self._left is None or self._ending is None:
            self.client.write(data)
            return
        self.client.write(data[: self._left])
        self._left -= len(data)
        if self._left <= 0:
            self._break(self._ending)

    def _break(self, fault: Fault) -> None:
        self._discards = True
        self._left = None
        self.server.reset()
        if fault.kind is Kind.RESET:
            self.client.reset()
        else:
            self.client.close()

    def _end_of(self, end: End) -> None:
        other = self.server if end is self.client else self.client
        if self._discards:
            self.client.close()
            return
        if end is self.client and self.server.transport is None:
            return  # gone before it said a word: its loss follows
        other.write_end()
        if other.ended:
            self.client.close()
            self.server.close()

    def _loss_of(self, end: End, error: Exception | None) -> None:
        other = self.server if end is self.client else self.client
        if self._discards and end is self.server:
            return  # we ended it; the client still has its answer to read
        if error is None:
            other.close()
        else:
            other.reset()
        self._finish()

    def reset(self) -> None:
        """End both sides at once."""
        self.client.reset()
        self.server.reset()
        self._finish()

    def close(self) -> None:
        """End both sides after what is on its way."""
        self.client.close()
        self.server.close()

    def _finish(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._gone(self)
