"""What tests do at the gateway: shut the doors of pods, stand one in front of a plain Service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from slipway.core.routing import Slot
from slipway.core.service import ServiceSpec
from tests.e2e.support import Sandbox


@contextmanager
def doors_shut(sandbox: Sandbox, service: str, slot: Slot) -> Iterator[None]:
    """Let every pod of a slot refuse the gateway meanwhile, though its kubelet sees it ready."""
    selector = f"slipway.dev/serves={service},slipway.dev/slot={slot}"
    pods = sandbox.kubectl("-n", "serving", "get", "pods", "-o", "name", "-l", selector)
    shut: list[str] = []
    try:
        for pod in pods.stdout.split():
            added = sandbox.run_cli("sandbox", "fault", "add", pod, "away")
            assert added.returncode == 0, added.stderr
            shut.append(added.stdout.split()[0])
        assert shut, pods.stderr
        yield
    finally:
        # These alone: other tests run beside this one.
        assert sandbox.run_cli("sandbox", "fault", "remove", *shut).returncode == 0


@contextmanager
def gateway_in_front(sandbox: Sandbox, spec: ServiceSpec) -> Iterator[None]:
    """Stand the gateway in front of a plain Service, as its cluster's administrator would."""
    route = {"destination": {"host": spec.name, "port": {"number": 80}}}
    rules = {
        "VirtualService": {
            "hosts": list(spec.hosts),
            "gateways": [spec.router.gateway],
            "http": [{"route": [route]}],
        },
        "DestinationRule": {
            "host": spec.name,
            # Shorter than the server's own keep-alive.
            "trafficPolicy": {"connectionPool": {"http": {"idleTimeout": "3s"}}},
        },
    }
    front = [
        {
            "apiVersion": "networking.istio.io/v1",
            "kind": kind,
            "metadata": {"name": f"{spec.name}-front", "namespace": spec.namespace},
            "spec": content,
        }
        for kind, content in rules.items()
    ]
    given = json.dumps({"apiVersion": "v1", "kind": "List", "items": front})
    applied = sandbox.kubectl("apply", "-f", "-", stdin=given)
    assert applied.returncode == 0, applied.stderr
    try:
        yield
    finally:
        deleted = sandbox.kubectl("delete", "-f", "-", stdin=given)
        assert deleted.returncode == 0, deleted.stderr
