"""Open requests as the model servers themselves count them, from their Prometheus page."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence

import httpx

from slipway.core.errors import PermanentError, TransientError
from slipway.core.service import ServerKind

# Gauge(s) whose sum is the number of requests a server works on.
# Sources: vllm docs/usage/metrics.md; llama.cpp tools/server/README.md;
# triton docs/user_guide/metrics.md.
_GAUGES: Mapping[ServerKind, tuple[str, ...]] = {
    ServerKind.SIMULATED: ("vllm:num_requests_running", "vllm:num_requests_waiting"),
    ServerKind.VLLM: ("vllm:num_requests_running", "vllm:num_requests_waiting"),
    ServerKind.LLAMA_CPP: ("llamacpp:requests_processing", "llamacpp:requests_deferred"),
    ServerKind.TRITON: ("nv_inference_pending_request_count",),
}
_PORTS: Mapping[ServerKind, int] = {ServerKind.TRITON: 8002}


class ServerMetrics:
    """The Metrics port by scraping `/metrics` of each pod.

    Args:
        port: that the servers serve HTTP on.
        proxy: HTTP proxy that reaches pod addresses; None inside the cluster.
    """

    def __init__(self, *, port: int, proxy: str | None) -> None:
        self._port = port
        self._http = httpx.Client(proxy=proxy, trust_env=False, timeout=5.0)
        # Its connections end with it: a port has no verb for that.
        weakref.finalize(self, self._http.close)

    def running_requests(self, kind: ServerKind, addresses: Sequence[str]) -> int:
        """Sum the open requests of the servers; see `slipway.ports.Metrics`."""
        return sum(self._running(kind, address) for address in addresses)

    def _running(self, kind: ServerKind, address: str) -> int:
        url = f"http://{address}:{_PORTS.get(kind, self._port)}/metrics"
        try:
            answer = self._http.get(url)
            answer.raise_for_status()
        except httpx.HTTPError as error:
            raise TransientError(
                f"the model server's metrics at {url} cannot be read: {error}",
                code="metrics-unreachable",
                hint="check the pod's state and log",
            ) from error
        return open_requests(answer.text, _GAUGES[kind], source=url)


def open_requests(page: str, gauges: Sequence[str], *, source: str) -> int:
    """Return the sum of the gauges in a Prometheus text page.

    Raises:
        PermanentError: a gauge is missing or no finite number; no data is not zero.
    """
    total = 0.0
    for gauge in gauges:
        values = [
            _value(line)
            for line in page.splitlines()
            if line.startswith((f"{gauge} ", f"{gauge}{{"))
        ]
        if not values or not all(math.isfinite(value) for value in values):
            raise PermanentError(
                f"{source} has no figure for metric {gauge}",
                code="metric-missing",
                hint="check the server's version against slipway/adapters/server_metrics.py",
            )
        total += sum(values)
    return round(total)


def _value(line: str) -> float:
    # NAME{labels} VALUE [TIMESTAMP]: Prometheus text format; a label's value may hold spaces.
    _, _, rest = line.rpartition("}") if "{" in line else line.partition(" ")
    try:
        return float(rest.split()[0])
    except (ValueError, IndexError):
        return math.nan
