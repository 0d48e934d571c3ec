"""The control socket: one JSON line a question, one JSON line an answer.

    {"verb": "add", "fault": {…}, "lasts_s": 20}   →  {"faults": […], "pods": […]}
    {"verb": "remove", "ids": ["f1"]}              →  {"faults": […], "pods": […]}
    {"verb": "list"}                               →  {"faults": […], "pods": […], "hits": {…}}
    {"verb": "routes"}                             →  {"pods": […]} now and at every change

A refusal is {"error": {"kind": …, "message": …, "code": …, "hint": …}}.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import asdict
from typing import Any

from slipway.core.errors import InputError, SlipwayError, TransientError
from slipway.sandbox.faults.model import Fault
from slipway.sandbox.faults.service import FaultService
from slipway.sandbox.faults.store import fault_from_json


class Control:
    """Serves the control socket.

    Args:
        service: does what is asked.
    """

    def __init__(self, service: FaultService) -> None:
        """Begin with nobody listening."""
        self._service = service
        self._live: set[asyncio.Task[object] | None] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        task = asyncio.current_task()
        self._live.add(task)
        try:
            question = json.loads(await reader.readline())
            if question["verb"] == "routes":
                await self._follow(reader, writer)
            else:
                await _tell(writer, await self._answer(question))
        except (OSError, ValueError, KeyError, TypeError):
            pass  # the other one left in the middle, or speaks something else
        finally:
            writer.close()
            self._live.discard(task)

    def close(self) -> None:
        """End whoever still listens."""
        for task in self._live:
            if task is not None:
                task.cancel()

    async def _answer(self, question: dict[str, Any]) -> dict[str, object]:
        try:
            if question["verb"] == "add":
                fault = fault_from_json(question["fault"])
                added = await self._service.add(fault, float(question["lasts_s"]))
                faults: tuple[Fault, ...] = (added,)
            elif question["verb"] == "list":
                faults = self._service.active
            else:
                faults = await self._service.remove(tuple(question["ids"]))
        except SlipwayError as error:
            return _refusal(error)
        except OSError as error:
            return _refusal(_not_applied(error))
        except (ValueError, KeyError, TypeError) as error:
            return _refusal(_not_understood(error))
        pods = self._service.routes.addresses
        listed = [asdict(fault) for fault in faults]
        return {"faults": listed, "pods": pods, "hits": self._service.hits}

    async def _follow(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        routes = self._service.routes
        gone = asyncio.ensure_future(reader.read())
        gone.add_done_callback(lambda _: writer.close())
        told: tuple[str, ...] | None = None
        try:
            while not gone.done():
                async with routes.changed:
                    while routes.addresses == told:
                        await routes.changed.wait()
                    told = routes.addresses
                await _tell(writer, {"pods": told})
        finally:
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await gone


async def _tell(writer: asyncio.StreamWriter, answer: dict[str, object]) -> None:
    writer.write(json.dumps(answer).encode() + b"\n")
    await writer.drain()


def _refusal(error: SlipwayError) -> dict[str, object]:
    about = {"message": error.message, "code": error.code, "hint": error.hint}
    return {"error": {"kind": type(error).__name__, **about}}


def _not_applied(error: OSError) -> TransientError:
    return TransientError(
        f"the fault cannot be applied: {error}",
        code="fault-not-applied",
        hint="slipway sandbox logs faults",
    )


def _not_understood(error: Exception) -> InputError:
    return InputError(
        f"the fault process does not understand: {error!r}",
        code="fault-invalid",
        hint="is the sandbox of another version? slipway sandbox down, then up",
    )
