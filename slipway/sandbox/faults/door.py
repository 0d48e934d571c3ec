"""A door: a port that clients dial, and the server behind it."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass

from slipway.sandbox.faults.answers import Dialect
from slipway.sandbox.faults.link import Behaviour, Link, Tls
from slipway.sandbox.faults.model import Fault, Kind
from slipway.sandbox.faults.plan import Chances

_BACKLOG = 1024
_QUIET_S = 0.1
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Way:
    """From where to where.

    Args:
        host: address that clients dial, on loopback.
        port: that clients dial.
        inner_host: of the server behind.
        inner_port: of the server behind.
        dialect: of its errors.
    """

    host: str
    port: int
    inner_host: str
    inner_port: int
    dialect: Dialect


class Door:
    """Listens on one port and passes connections on; `apply` says what goes wrong with them.

    Args:
        way: from where to where.
        chances: the random numbers of the faults, shared by the doors of one fault.
        tls: given for a server that speaks TLS: with it errors can be answered.
    """

    def __init__(self, way: Way, chances: Chances, tls: Tls | None = None) -> None:
        """Begin closed."""
        self.way = way
        self._tls = tls
        self._behaviour = Behaviour(way.inner_host, way.inner_port, way.dialect, (), chances)
        self._server: asyncio.Server | None = None
        self._links: set[Link] = set()
        self._ending: asyncio.Task[None] | None = None

    @property
    def open_links(self) -> int:
        """How many connections pass it now."""
        return len(self._links)

    async def apply(self, faults: tuple[Fault, ...]) -> None:
        """Let these faults be in force, and open or close the port accordingly.

        Raises:
            OSError: the port cannot be opened.
        """
        away = any(fault.kind is Kind.AWAY for fault in faults)
        self._behaviour.faults = faults
        if away:
            self._shut()
        elif self._server is None:
            self._server = await asyncio.get_running_loop().create_server(
                self._accept,
                self.way.host,
                self.way.port,
                family=socket.AF_INET,
                backlog=_BACKLOG,
            )
        if self._looks_in and (self._ending is None or self._ending.done()):
            self._ending = asyncio.get_running_loop().create_task(self._end_closed_tls())

    def close(self) -> None:
        """End the port and every connection."""
        if self._ending is not None:
            self._ending.cancel()
        self._shut()

    @property
    def _looks_in(self) -> bool:
        """Whether TLS has to be looked into: only for answers of our own."""
        errors = any(fault.kind is Kind.ERROR for fault in self._behaviour.faults)
        return errors and self._tls is not None

    def _shut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for link in tuple(self._links):
            link.reset()

    def _accept(self) -> asyncio.Protocol:
        tls = self._tls if self._looks_in else None
        link = Link(
            self._behaviour,
            tls=tls,
            readable=self._tls is None or tls is not None,
            gone=self._links.discard,
        )
        self._links.add(link)
        link.start()
        return link.client

    async def _end_closed_tls(self) -> None:
        """End what was open before, each when nobody waits in it: clients dial anew."""
        loop = asyncio.get_running_loop()
        while self._looks_in:
            closed = [link for link in self._links if not link.readable]
            for link in closed:
                if link.is_quiet and loop.time() - link.heard_s > _QUIET_S:
                    link.close()
            if not closed:
                return
            await asyncio.sleep(_LOOK_S)
