"""A small server of event streams for tests: what it does with a request stands in the prompt."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

GAP_S = 0.01
ROLE = '{"choices":[{"delta":{"role":"assistant","content":""}}]}'
USAGE = '{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":%d}}'
PLAIN_ANSWERS = {
    "not-http": b"220 smtp ready\r\n\r\n",
    "http-500": b"HTTP/1.1 500 No\r\ncontent-length: 7\r\n\r\nno luck",
}


@dataclass
class StreamingServer:
    """What the server saw, and where it is.

    Attributes:
        ids: `x-request-id` of every request, in order.
        most_open: the most requests that were under way at one time.
        tunnels: targets of CONNECT requests.
    """

    url: str = ""
    connections: int = 0
    most_open: int = 0
    ids: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    tunnels: list[str] = field(default_factory=list)
    first_token_ns: dict[str, int] = field(default_factory=dict)
    _open: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if head.startswith("CONNECT"):
            self.tunnels.append(head.split(" ")[1])
            refused = "refused" in head
            answer = "403 Forbidden" if refused else "200 OK"
            writer.write(f"HTTP/1.1 {answer}\r\n\r\n".encode())
            return not refused
        fields = dict(
            line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line
        )
        body = json.loads(await reader.readexactly(int(fields["content-length"])))
        self.heads.append(head)
        self.ids.append(fields.get("x-request-id", ""))
        self._open += 1
        self.most_open = max(self.most_open, self._open)
        try:
            prompt = body["messages"][0]["content"]
            return await self._answer(writer, prompt, body["max_tokens"], fields)
        finally:
            self._open -= 1

    async def _answer(
        self, writer: asyncio.StreamWriter, what: str, tokens: int, fields: dict[str, str]
    ) -> bool:
        if what == "hang":
            await asyncio.sleep(30)
        if what in PLAIN_ANSWERS:
            writer.write(PLAIN_ANSWERS[what])
            return what != "not-http"
        end = "\r\n" if what == "crlf" else "\n"
        last = "connection: close\r\n" if what == "close" else ""
        writer.write(
            f"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n{last}"
            "x-slipway-slot: blue\r\ntransfer-encoding: chunked\r\n\r\n".encode()
        )
        self._event(writer, ROLE, end)
        for number in range(tokens):
            await asyncio.sleep(GAP_S)
            if number == 0:
                self.first_token_ns[fields.get("x-request-id", "")] = time.monotonic_ns()
            if (what, number) == ("reset", 2):
                _reset(writer)
                return False
            self._event(writer, _token(what, number), end)
        self._event(writer, USAGE % tokens, end)
        if what != "truncated":
            self._event(writer, "[DONE]", end)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return what != "close"

    def _event(self, writer: asyncio.StreamWriter, data: str, end: str) -> None:
        raw = f"data: {data}{end}{end}".encode()
        writer.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")


def _token(what: str, number: int) -> str:
    if (what, number) == ("error-event", 1):
        return '{"error":{"message":"out of memory","code":500}}'
    text = "" if what == "empty" else f"t{number} "
    return json.dumps({"choices": [{"delta": {"content": text}}]})


@contextmanager
def streaming_server() -> Iterator[StreamingServer]:
    """Serve on a free port in a thread of its own until the block ends."""
    server = StreamingServer()
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    stop = asyncio.Event()

    async def run() -> None:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        ready.set()
        await stop.wait()
        listening.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    ready.wait()
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    found: socket.socket = writer.get_extra_info("socket")
    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
