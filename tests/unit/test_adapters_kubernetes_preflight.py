from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from slipway.adapters.kubernetes_api import KubernetesApi
from slipway.adapters.kubernetes_preflight import KubernetesPreflight
from slipway.core.errors import PermanentError, TransientError
from slipway.core.feasibility.values import Right, Unseen
from slipway.retries import call_with_retries

BUSY = TransientError("busy", code="api-busy", hint="wait")
FORBIDDEN = PermanentError("no", code="forbidden", hint="grant it")
RIGHT = Right(verb="get", group="", resource="pods/log", namespace="serving")


class Server:
    """Answers in order; the last one stays."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, Any]] = []

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        return self._answer(path, dict(query or {}))

    def call(self, method: str, path: str, *, body: Any) -> Any:
        return self._answer(f"{method} {path}", body)

    def _answer(self, path: str, asked: Any) -> Any:
        self.asked.append((path, asked))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = {**(call_with_retries.__kwdefaults__ or {}), "sleep": lambda _: None}
    monkeypatch.setattr(call_with_retries, "__kwdefaults__", defaults)


def preflight(server: Server) -> KubernetesPreflight:
    return KubernetesPreflight(cast(KubernetesApi, server), gateway_url="http://127.0.0.1:1")


def allowed(answer: bool) -> dict[str, Any]:
    return {"status": {"allowed": answer}}


def test_review_is_asked_again_while_the_server_is_busy() -> None:
    server = Server(*[BUSY] * 5, allowed(True), allowed(False))
    assert preflight(server).missing_rights([RIGHT, RIGHT]) == (RIGHT,)
    assert len(server.asked) == 7
    path, body = server.asked[0]
    assert path == "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    assert body["spec"]["resourceAttributes"]["subresource"] == "log"


def test_server_that_stays_busy_is_no_missing_right() -> None:
    with pytest.raises(TransientError):
        preflight(Server(BUSY)).missing_rights([RIGHT])


def test_long_list_is_read_page_by_page() -> None:
    first = {"metadata": {"continue": "more"}, "items": [{"metadata": {"name": "a"}}]}
    server = Server(first, {"metadata": {}, "items": [{"metadata": {"name": "b"}}]})
    found = preflight(server).nodes().objects
    assert [(item["kind"], item["metadata"]["name"]) for item in found] == [
        ("Node", "a"),
        ("Node", "b"),
    ]
    assert [query.get("continue") for _, query in server.asked] == [None, "more"]


def test_pods_that_have_ended_are_not_asked_for() -> None:
    server = Server({"items": None})
    assert preflight(server).pods().objects == ()
    assert server.asked == [
        (
            "/api/v1/pods",
            {
                "fieldSelector": "status.phase!=Succeeded,status.phase!=Failed",
                "limit": "500",
            },
        )
    ]


def test_kind_that_the_cluster_does_not_know_has_no_objects_and_is_not_unseen() -> None:
    look = preflight(Server(None)).namespace("serving")
    assert (look.objects, look.unseen) == ((), ())


def test_what_may_not_be_read_is_named() -> None:
    server = Server(FORBIDDEN)
    assert preflight(server).nodes().unseen == (
        Unseen(what="Nodes in all namespaces", why="not allowed to read them"),
    )
    assert len(preflight(server).namespace("serving").unseen) == 7
    looked = preflight(server).routes("serving", [("Service", "chat"), ("HTTPRoute", "chat")])
    assert [item.what for item in looked.unseen] == [
        "Service serving/chat",
        "HTTPRoute serving/chat",
    ]


def test_other_refusal_is_not_taken_for_a_missing_right() -> None:
    with pytest.raises(PermanentError) as caught:
        preflight(Server(PermanentError("gone", code="refused-by-cluster", hint="x"))).nodes()
    assert caught.value.code == "refused-by-cluster"
