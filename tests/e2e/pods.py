"""Pods that tests watch: one container of the sandbox's base image each, a script of theirs."""

from __future__ import annotations

from typing import Any

FOREVER = "exec sleep 3600"
# Serves HTTP that is well, and a second port that is open, as long as the gate is. It looks at the
# gate 20 times a second: a file in a folder that is mounted tells nobody of itself.
GATED_SERVER = """
import http.server, os, socket, sys, threading, time
gate, address = sys.argv[1], os.environ["POD_IP"]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if os.path.exists(gate) else 503)
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer((address, 8000), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
door = None
while True:
    opened = os.path.exists(gate)
    if opened and door is None:
        door = socket.create_server((address, 8001))
    if not opened and door is not None:
        door.close()
        door = None
    time.sleep(0.05)
"""

Manifest = dict[str, Any]


def container(name: str, script: str = FOREVER, **fields: Any) -> Manifest:
    """Return a container that runs a shell script."""
    return {"name": name, "command": ["sh", "-c", script], **fields}


def pod(name: str, *containers: Manifest, **spec: Any) -> Manifest:
    """Return a pod; every container sees the gates, and `/shared` of the pod."""
    mounts = [
        {"name": "gates", "mountPath": "/gates"},
        {"name": "shared", "mountPath": "/shared"},
    ]
    init = [{"volumeMounts": mounts, **one} for one in spec.pop("initContainers", ())]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "containers": [{"volumeMounts": mounts, **one} for one in containers],
            "initContainers": init,
            **spec,
        },
    }


def probed(name: str, kind: str, further: Manifest | None = None, **timing: int) -> Manifest:
    """Return a pod with a probe of each mechanism; all pass while the gate of its name is open."""
    address = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    server = {
        "name": "server",
        "command": ["python3", "-c", GATED_SERVER, f"/gates/{name}"],
        "env": [address],
    }
    mechanisms: dict[str, Manifest] = {
        "http": {"httpGet": {"path": "/", "port": 8000}},
        "tcp": {"tcpSocket": {"port": 8001}},
        "exec": {"exec": {"command": ["test", "-e", f"/gates/{name}"]}},
    }
    settings = {"periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 5, **timing}

    def one(mechanism: str, how: Manifest) -> Manifest:
        probes: Manifest = {kind: {**how, **settings}, **(further or {})}
        return container(mechanism, **probes)

    return pod(name, server, *(one(mechanism, how) for mechanism, how in mechanisms.items()))
