"""An API server that has just started: it refuses everybody until it has read its Roles."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from slipway.adapters.kubernetes_api import KubernetesApi, object_path
from slipway.core.errors import PermanentError, TransientError

PATH = object_path("Lease", "serving", "slipway-chat")
BY_ROLES = (
    'leases.coordination.k8s.io "slipway-chat" is forbidden: User "system:serviceaccount:serving:'
    'slipway-watch" cannot get resource "leases" in API group "coordination.k8s.io" in the '
    'namespace "serving"'
)
"""As a Kubernetes 1.36 API server answered a few milliseconds after its start."""

ANSWERS = {
    200: "{}",
    403: json.dumps({"message": BY_ROLES}),
    404: "",
    500: "[-]informer-sync failed",
}


@contextmanager
def server(folder: Path, **answers: list[int]) -> Iterator[tuple[KubernetesApi, list[str]]]:
    """Serve statuses, one a request and the last one for ever, for the lease and for `/readyz`."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            what = "readyz" if self.path == "/readyz" else "lease"
            asked.append(what)
            left = answers[what]
            status = left.pop(0) if len(left) > 1 else left[0]
            body = ANSWERS[status].encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        cluster = {"server": f"http://127.0.0.1:{serving.server_address[1]}"}
        context = {"cluster": "c", "user": "u"}
        kubeconfig = {
            "current-context": "x",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "x", "context": context}],
        }
        (folder / "kubeconfig").write_text(json.dumps(kubeconfig))
        try:
            yield KubernetesApi(str(folder / "kubeconfig")), asked
        finally:
            serving.shutdown()


@pytest.mark.parametrize("readyz", [403, 500])
def test_refusal_while_it_is_not_ready_passes(tmp_path: Path, readyz: int) -> None:
    """Of 25 watchers that were refused right after a start, 19 were at `/readyz`, too."""
    serving = server(tmp_path, lease=[403], readyz=[readyz])
    with serving as (api, _), pytest.raises(TransientError) as caught:
        api.get(PATH)
    assert caught.value.code == "api-busy"
    assert "the API server is not ready" in caught.value.message


def test_server_that_has_become_ready_meanwhile_is_asked_again(tmp_path: Path) -> None:
    with server(tmp_path, lease=[403, 200], readyz=[200]) as (api, asked):
        assert api.get(PATH) == {}
    assert asked == ["lease", "readyz", "lease"]


@pytest.mark.parametrize("readyz", [200, 404])
def test_refusal_of_a_server_that_knows_its_roles_stays_one(tmp_path: Path, readyz: int) -> None:
    serving = server(tmp_path, lease=[403], readyz=[readyz])
    with serving as (api, _), pytest.raises(PermanentError) as caught:
        api.get(PATH)
    assert caught.value.code == "forbidden"
    assert BY_ROLES in caught.value.message
