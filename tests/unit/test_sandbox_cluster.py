"""The starting state of the sandbox's cluster, applied to an API that is only pretended."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from slipway.sandbox import cluster

NAME = "gateways.example.dev"


class FakeApi:
    """One definition whose names were accepted `age_s` ago; served once its names are open again.

    As in Kubernetes 1.36.3 nobody comes back to it by itself.
    """

    def __init__(self, *, age_s: float, served_at_look: int = 0) -> None:
        self.since = datetime.now(UTC) - timedelta(seconds=age_s)
        self.established = False
        self.served_at_look = served_at_look
        self.looks = 0
        self.reopened: list[Any] = []

    def call(self, method: str, path: str, *, body: Any = None, **_: Any) -> dict[str, Any]:
        if method == "PATCH" and path.endswith("/status"):
            self.reopened.append(body["status"])
            self.established = True
        if method != "GET":
            return {}
        self.looks += 1
        self.established |= self.looks == self.served_at_look
        item = {"metadata": {"name": NAME}, "status": {"conditions": self._conditions()}}
        return item if path.endswith(NAME) else {"items": [item]}

    def _conditions(self) -> list[dict[str, str]]:
        states = {"NamesAccepted": "True", "Established": str(self.established)}
        since = self.since.strftime("%Y-%m-%dT%H:%M:%SZ")
        return [
            {"type": kind, "status": status, "lastTransitionTime": since}
            for kind, status in states.items()
        ]


@pytest.fixture
def crds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cluster, "_POLL_S", 0)
    (tmp_path / f"{NAME}.json").write_text(json.dumps({"metadata": {"name": NAME}}))
    return tmp_path


def test_definition_that_a_killed_api_server_forgot_is_opened_again(crds: Path) -> None:
    api = FakeApi(age_s=60)
    cluster.apply_crds(api, crds)  # type: ignore[arg-type]  # a fake of the one method it calls
    (status,) = api.reopened
    assert status["acceptedNames"]["plural"] == ""
    assert status["conditions"] is None


def test_definition_that_was_accepted_just_now_is_waited_for(crds: Path) -> None:
    api = FakeApi(age_s=0, served_at_look=5)
    cluster.apply_crds(api, crds)  # type: ignore[arg-type]  # a fake of the one method it calls
    assert api.reopened == []
