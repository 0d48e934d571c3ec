"""llama.cpp's own HTTP server as a container's first process, ended gracefully.

Started as `python3 -m slipway.sandbox.servers.llama --host H --port P --model-dir D --model-name N`
by the image `slipway/llama-cpp`, which carries the `xllamacpp` distribution. The server runs in
threads of this process; this module chooses its parameters and waits for SIGTERM.
"""

from __future__ import annotations

import argparse
import http.client
import os
import signal
import sys
import time
from pathlib import Path

import xllamacpp

from slipway.sandbox.servers import CHAT_TEMPLATE

_PARALLEL_STREAMS = 4
_CONTEXT_TOKENS = 4096  # shared evenly by the parallel streams
_QUIET_S = 0.5  # ends after this long without a request: routes need a moment to leave it
_POLL_S = 0.1
_HTTP_THREADS = 32  # each open connection keeps one; a proxy holds several open
_TIMEOUT_S = 5.0
_BUSY_METRICS = ("llamacpp:requests_processing ", "llamacpp:requests_deferred ")
_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})


class ModelFolderError(Exception):
    """The model folder does not hold exactly one GGUF file."""


def model_file(folder: Path) -> Path:
    """Return the single `*.gguf` of a model version.

    Raises:
        ModelFolderError: there is none, or more than one.
    """
    found = sorted(folder.glob("*.gguf"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ModelFolderError(f"{folder} must hold exactly one *.gguf file; found: {names}")
    return found[0]


def _parameters(arguments: argparse.Namespace) -> xllamacpp.CommonParams:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model_file(arguments.model_dir))
    template = arguments.model_dir / CHAT_TEMPLATE
    if template.exists():
        parameters.chat_template = template.read_text()
    parameters.model_alias = {arguments.model_name}
    parameters.hostnames = [arguments.host]
    parameters.port = arguments.port
    parameters.n_parallel = _PARALLEL_STREAMS
    parameters.n_ctx = _CONTEXT_TOKENS
    parameters.cpuparams.n_threads = arguments.threads
    parameters.cpuparams_batch.n_threads = arguments.threads
    parameters.n_threads_http = _HTTP_THREADS
    parameters.endpoint_metrics = True
    # The same prompt must get the same answer: nothing is reused from requests before.
    parameters.cache_prompt = False
    parameters.cache_ram_mib = 0
    parameters.fit_params = False
    parameters.ui = False
    return parameters


def _busy(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    except TimeoutError:
        return True  # it is too busy to answer
    except (OSError, http.client.HTTPException):
        return False  # it serves nobody any more
    finally:
        connection.close()
    counts = [line.split()[-1] for line in text.splitlines() if line.startswith(_BUSY_METRICS)]
    return any(float(count) > 0 for count in counts)


def _drain(host: str, port: int) -> None:
    """Return once no request has been in progress for a while."""
    quiet_since_s = time.monotonic()
    while time.monotonic() - quiet_since_s < _QUIET_S:
        if _busy(host, port):
            quiet_since_s = time.monotonic()
        time.sleep(_POLL_S)


def main() -> int:
    """Run the server until SIGTERM or SIGINT; returns the exit code (2: no usable model)."""
    # Blocked before any thread exists, so that only the wait below ever sees them.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    parser = argparse.ArgumentParser(prog="llama")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--model-name", required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    try:
        server = xllamacpp.Server(_parameters(arguments))
    except (ModelFolderError, OSError, RuntimeError, ValueError) as error:
        sys.stderr.write(f"llama: cannot start: {error}\n")
        return 2
    sys.stderr.write(f"llama: listening on {server.listening_address}\n")
    signal.sigwait(_SIGNALS)
    _drain(arguments.host, arguments.port)
    # The server's threads have no way to end that could not hang; nothing is left to be flushed.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    raise SystemExit(main())
