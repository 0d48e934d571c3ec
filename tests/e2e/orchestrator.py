"""Prefect's API as a person or a webhook uses it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

LONGEST_RUN_S = 240.0
LONGEST_BUSY_S = 30.0
LONGEST_LOG_DELAY_S = 30.0  # a run's log reaches the server in batches


class Orchestrator:
    """Prefect's API as a person or a webhook uses it."""

    def __init__(self, url: str) -> None:
        self._api = httpx.Client(base_url=url, trust_env=False, timeout=30)

    def close(self) -> None:
        self._api.close()

    def start(self, deployment: str = "release/release", **parameters: str) -> httpx.Response:
        """Ask for a run of a deployment."""
        deployment = self._ask("GET", f"/deployments/name/{deployment}").json()["id"]
        wanted = {"parameters": parameters, "idempotency_key": uuid.uuid4().hex}
        return self._ask("POST", f"/deployments/{deployment}/create_flow_run", wanted)

    def run(self, deployment: str = "release/release", **parameters: str) -> Run:
        """Start a run and wait for its end."""
        started = self.start(deployment, **parameters).raise_for_status().json()
        return self.ended(started["id"])

    def ended(self, run_id: str) -> Run:
        """Wait for the end of a run."""
        deadline_s = time.monotonic() + LONGEST_RUN_S
        while (run := self.read(run_id))["end_time"] is None:
            assert time.monotonic() < deadline_s, run["state"]
            time.sleep(0.3)  # between two looks; the deadline decides
        return Run(
            name=run["name"],
            state=run["state"]["type"],
            message=run["state"]["message"] or "",
            artifacts={
                item["key"]: item["data"]
                for item in self._of_run("artifacts", run["id"])
                if item["type"] == "markdown"
            },
            log=lambda: [item["message"] for item in self._of_run("logs", run["id"])],
        )

    def read(self, run_id: str) -> dict[str, Any]:
        """Return a run as the API shows it."""
        found: dict[str, Any] = self._ask("GET", f"/flow_runs/{run_id}").raise_for_status().json()
        return found

    def cancel(self, run_id: str) -> None:
        """Cancel a run, as the button of the UI does."""
        wanted = {"state": {"type": "CANCELLING"}, "force": False}
        answer = self._ask("POST", f"/flow_runs/{run_id}/set_state", wanted).raise_for_status()
        assert answer.json()["status"] == "ACCEPT", answer.text

    def pause_workers(self) -> None:
        """Let no run be started until further notice."""
        self._ask("PATCH", "/work_pools/slipway", {"is_paused": True}).raise_for_status()

    def _of_run(self, what: str, run_id: str) -> list[dict[str, Any]]:
        only = {what: {"flow_run_id": {"any_": [run_id]}}}
        answer = self._ask("POST", f"/{what}/filter", only).raise_for_status()
        found: list[dict[str, Any]] = answer.json()
        return found

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        """Ask again after a 503, as Prefect's clients do: its SQLite was locked just then."""
        deadline_s = time.monotonic() + LONGEST_BUSY_S
        while (answer := self._api.request(method, path, json=body)).status_code == 503:
            assert time.monotonic() < deadline_s, answer.text
            time.sleep(0.5)  # before the server is asked again; the deadline decides
        return answer


@dataclass(frozen=True)
class Run:
    """A run that has ended.

    Args:
        name: as the UI shows it.
        state: for example `COMPLETED`.
        message: of the state.
        artifacts: its Markdown artifacts by key.
        log: returns the lines that have arrived so far.
    """

    name: str
    state: str
    message: str
    artifacts: dict[str, str]
    log: Callable[[], list[str]] = field(repr=False)

    def logged(self, *wanted: str) -> list[str]:
        """Wait until every one of these texts stands in the log; return those that never do."""
        deadline_s = time.monotonic() + LONGEST_LOG_DELAY_S
        while True:
            lines = self.log()
            missing = [text for text in wanted if not any(text in line for line in lines)]
            if not missing or time.monotonic() > deadline_s:
                return missing
            time.sleep(0.5)  # between two looks; the deadline decides
