"""A model server without a model: OpenAI's API, behaving as the model version's own file states.

Started as a container's first process: `python3 -m slipway.sandbox.servers.simulated --host H
--port P --model-dir D --model-name N`. Standard library only. One JSON line per request, written
when it ends, is the truth that measurements are compared with (`SLIPWAY_TRUTH_LOG`, else standard
output).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from http import HTTPStatus
from pathlib import Path
from typing import TextIO

from slipway.core.errors import InputError
from slipway.sandbox.servers import openai_api as api
from slipway.sandbox.servers.http1 import Connection, Request
from slipway.sandbox.servers.simulated_behaviour import (
    FILE_NAME,
    Answer,
    Behaviour,
    Fate,
    answer,
    cut_after,
    delay_s,
    fate,
    parse_behaviour,
)
from slipway.sandbox.servers.simulated_metrics import Metrics

_QUIET_S = 0.5
"""A draining server ends after this long without a request: routes need a moment to leave it."""

_SSE_TYPE = "text/event-stream; charset=utf-8"
_BACKLOG = 1024


class Truth:
    """The ground truth of one request; times are monotonic ns, None until they happen."""

    __slots__ = ("first_ns", "headers", "last_ns", "path", "received_ns", "stream", "tokens")

    def __init__(self, request: Request) -> None:
        self.received_ns = time.monotonic_ns()
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.tokens = 0
        self.path = request.path
        self.stream = False
        self.headers = request.headers

    def line(self, status: int, finished: str) -> str:
        """Return the log line: `finished` is done, truncated, client_gone or error."""
        ended_ns = time.monotonic_ns()
        to_unix_ns = time.time_ns() - ended_ns
        row: dict[str, object] = {"event": "request", "path": self.path, "status": status}
        row |= {"finished": finished, "stream": self.stream, "tokens": self.tokens}
        for name, stamp_ns in (
            ("received", self.received_ns),
            ("first", self.first_ns),
            ("last", self.last_ns),
            ("ended", ended_ns),
        ):
            row[f"{name}_ns"] = stamp_ns
            row[f"{name}_unix_ns"] = None if stamp_ns is None else stamp_ns + to_unix_ns
        for header in ("x-request-id", "x-session-id", "x-slipway-purpose"):
            row[header.replace("-", "_")] = self.headers.get(header, "")
        return json.dumps(row) + "\n"


class Generation:
    """One answer on its way to the client."""

    def __init__(
        self, server: SimulatedServer, connection: Connection, ask: api.Ask, truth: Truth
    ) -> None:
        self._server = server
        self._connection = connection
        self._ask = ask
        self._truth = truth
        self._number = server.next_number()
        self._fate = fate(server.behaviour, self._number)
        self._answer: Answer = answer(
            server.behaviour, ask.prompt, max_tokens=ask.max_tokens, ignore_eos=ask.ignore_eos
        )
        self._stop_at = self._answer.length
        if self._fate is Fate.TRUNCATE:
            self._stop_at = cut_after(server.behaviour, self._number, self._stop_at)
        self._prompt_tokens = len(ask.prompt.split())
        self._events = api.Events(
            chat=ask.chat,
            identity=f"{'chatcmpl' if ask.chat else 'cmpl'}-{self._number}",
            created_s=int(time.time()),
            model_name=server.model_name,
        )
        self._loop = asyncio.get_running_loop()
        self._due_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Answer at once with an error, or begin."""
        truth, metrics = self._truth, self._server.metrics
        truth.stream = self._ask.stream
        if self._fate is Fate.ERROR:
            self._server.refuse(
                self._connection,
                truth,
                HTTPStatus.INTERNAL_SERVER_ERROR,
                "simulated failure (error_rate_percent)",
            )
            return
        metrics.prompt_tokens += self._prompt_tokens
        metrics.running += 1
        self._connection.on_lost = self._lost
        if self._ask.stream:
            self._connection.on_writable = self._resume
            self._connection.start_stream(_SSE_TYPE, self._server.echo(truth))
            if self._ask.chat:
                self._connection.write_chunk(self._events.role())
            self._wait(delay_s(self._server.behaviour, self._number, 0))
        else:
            tokens = range(self._answer.length)
            self._wait(sum(delay_s(self._server.behaviour, self._number, i) for i in tokens))

    def _wait(self, pause_s: float) -> None:
        # Each due time follows from the one before, not from now: late timers do not add up.
        self._due_s += pause_s
        self._timer = self._loop.call_at(self._due_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self._connection.writable:
            return  # the client reads too slowly; _resume goes on
        if not self._ask.stream:
            self._send_whole()
            return
        truth = self._truth
        event = self._events.token(self._answer.token(truth.tokens))
        # Stamped before it is written, so that no client can have seen it earlier.
        now_ns = time.monotonic_ns()
        self._connection.write_chunk(event)
        if truth.first_ns is None or truth.last_ns is None:
            truth.first_ns = now_ns
            first_s = (now_ns - truth.received_ns) / 1e9
            self._server.metrics.time_to_first_token.observe(first_s)
        else:
            gap_s = (now_ns - truth.last_ns) / 1e9
            self._server.metrics.inter_token_latency.observe(gap_s)
        truth.last_ns = now_ns
        truth.tokens += 1
        if truth.tokens < self._stop_at:
            self._wait(delay_s(self._server.behaviour, self._number, truth.tokens))
        elif self._fate is Fate.TRUNCATE:
            self._truncate()
        else:
            counts = api.usage(self._prompt_tokens, truth.tokens) if self._ask.usage else None
            self._connection.write_chunk(self._events.end(self._answer.finish_reason, counts))
            self._connection.write(b"0\r\n\r\n")
            self._done()

    def _resume(self) -> None:
        if self._timer is None:
            self._tick()

    def _send_whole(self) -> None:
        truth, length = self._truth, self._answer.length
        counts = api.usage(self._prompt_tokens, length)
        body = self._events.whole(self._answer.text(), self._answer.finish_reason, counts)
        echo = self._server.echo(truth)
        self._connection.start_sized(api.JSON_TYPE, len(body), echo)
        truth.tokens = self._stop_at
        cut = self._fate is Fate.TRUNCATE
        truth.first_ns = truth.last_ns = time.monotonic_ns()
        self._connection.write(body[: len(body) // 2] if cut else body)
        self._server.metrics.time_to_first_token.observe((truth.first_ns - truth.received_ns) / 1e9)
        if cut:
            self._truncate()
        else:
            self._done()

    def _done(self) -> None:
        self._connection.finish()
        self._end(self._answer.finish_reason, "done")

    def _truncate(self) -> None:
        self._connection.on_lost = self._connection.on_writable = None
        self._connection.close()
        self._end("abort", "truncated")

    def _lost(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._end("abort", "client_gone")

    def _end(self, reason: str, finished: str) -> None:
        metrics, truth = self._server.metrics, self._truth
        metrics.running -= 1
        metrics.generation_tokens += truth.tokens
        metrics.success[reason] += 1
        metrics.e2e_latency.observe((time.monotonic_ns() - truth.received_ns) / 1e9)
        self._server.log(truth, HTTPStatus.OK, finished)


class SimulatedServer:
    """The server: routes requests, counts them, knows when it is idle.

    Args:
        truth_log: gets one line per request to a completion path.
    """

    def __init__(self, behaviour: Behaviour, model_name: str, truth_log: TextIO) -> None:
        self.behaviour = behaviour
        self.model_name = model_name
        self.metrics = Metrics()
        self.loaded = False
        self.draining = False
        self.last_request_s = time.monotonic()
        self.connections: set[Connection] = set()
        self._truth_log = truth_log
        self._numbers = 0

    def connection(self) -> Connection:
        """Make the protocol of a new connection."""
        return Connection(self._handle, lambda: self.draining, self.connections)

    def next_number(self) -> int:
        """Return the next request's number, from 0."""
        self._numbers += 1
        return self._numbers - 1

    def log(self, truth: Truth, status: int, finished: str) -> None:
        """Write the ground truth of a request that ended."""
        self.last_request_s = time.monotonic()
        self._truth_log.write(truth.line(status, finished))

    def echo(self, truth: Truth) -> dict[str, str]:
        """Return the response headers that repeat the request's identity."""
        identity = truth.headers.get("x-request-id")
        return {"x-request-id": identity} if identity else {}

    def refuse(
        self, connection: Connection, truth: Truth, status: HTTPStatus, message: str
    ) -> None:
        """Answer with an error and log it."""
        body = api.error_body(status, message)
        connection.respond(status, body, api.JSON_TYPE, self.echo(truth))
        self.log(truth, status, "error")

    def _handle(self, request: Request, connection: Connection) -> None:
        path = request.path.partition("?")[0]
        if path in {api.CHAT_PATH, api.COMPLETIONS_PATH} and request.method == "POST":
            self._complete(path, request, connection)
        elif request.method != "GET":
            self._answer_error(connection, HTTPStatus.METHOD_NOT_ALLOWED)
        elif path == "/health":
            healthy = self.loaded and not self.draining
            status = HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE
            state = "draining" if self.draining else "ok" if self.loaded else "loading"
            connection.respond(status, api.dump({"status": state}), api.JSON_TYPE, {})
        elif path == "/metrics":
            text = self.metrics.render(self.model_name).encode()
            connection.respond(HTTPStatus.OK, text, "text/plain; version=0.0.4", {})
        elif path == "/v1/models":
            model = {"id": self.model_name, "object": "model", "owned_by": "slipway"}
            body = api.dump({"object": "list", "data": [model]})
            connection.respond(HTTPStatus.OK, body, api.JSON_TYPE, {})
        else:
            self._answer_error(connection, HTTPStatus.NOT_FOUND)

    def _answer_error(self, connection: Connection, status: HTTPStatus) -> None:
        connection.respond(status, api.error_body(status, status.phrase), api.JSON_TYPE, {})

    def _complete(self, path: str, request: Request, connection: Connection) -> None:
        truth = Truth(request)
        self.last_request_s = time.monotonic()
        if not self.loaded:
            message = "the model is being loaded"
            self.refuse(connection, truth, HTTPStatus.SERVICE_UNAVAILABLE, message)
            return
        try:
            ask = api.parse_ask(path, request.body, self.model_name)
        except api.RefusedError as error:
            self.refuse(connection, truth, error.status, error.message)
            return
        Generation(self, connection, ask, truth).start()

    async def serve(self, host: str, port: int) -> None:
        """Serve until SIGTERM or SIGINT and then until idle."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            # A container's first process has no default handlers: without this it ignores SIGTERM.
            loop.add_signal_handler(number, stop.set)
        listener = await loop.create_server(self.connection, host, port, backlog=_BACKLOG)
        if not self.behaviour.never_ready:
            loop.call_later(self.behaviour.start_delay_s, self._finish_loading)
        if self.behaviour.crash_after_s is not None:
            loop.call_later(self.behaviour.crash_after_s, _crash)
        await stop.wait()
        self.draining = True
        while self.metrics.running or time.monotonic() - self.last_request_s < _QUIET_S:
            await asyncio.sleep(0.05)
        listener.close()
        for connection in tuple(self.connections):
            connection.close()

    def _finish_loading(self) -> None:
        self.loaded = True


def _crash() -> None:
    sys.stderr.write("simulated crash (crash_after_s)\n")
    sys.stderr.flush()
    os._exit(1)


def _truth_log() -> TextIO:
    chosen = os.environ.get("SLIPWAY_TRUTH_LOG")
    append = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    descriptor = os.open(chosen, append, 0o644) if chosen else sys.stdout.fileno()
    # Line-buffered, so that a killed server has logged every request that ended.
    return os.fdopen(descriptor, "w", buffering=1)


def main() -> int:
    """Run the server; returns the exit code (2: the model's file is missing or invalid)."""
    parser = argparse.ArgumentParser(prog="simulated")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--model-name", required=True)
    arguments = parser.parse_args()
    try:
        behaviour = parse_behaviour((arguments.model_dir / FILE_NAME).read_text())
    except (InputError, OSError, UnicodeDecodeError) as error:
        sys.stderr.write(f"simulated: cannot start: {error}\n")
        return 2
    if behaviour.crash_on_start:
        sys.stderr.write("simulated crash (crash_on_start)\n")
        return behaviour.crash_on_start
    with _truth_log() as log:
        server = SimulatedServer(behaviour, arguments.model_name, log)
        asyncio.run(server.serve(arguments.host, arguments.port))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
