"""Flow runs that died unseen: their worker was killed with them, and Prefect shows them as running.

Prefect's own recipe (an automation on missing heartbeats) also kills runs that wait for a person,
so it must not be used. Here only a run counts as dead that is RUNNING, had heartbeats, and has had
none for three times as long as they are apart.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import PrefectException
from prefect.settings import get_current_settings
from prefect.states import Crashed

FLOWS = ("release", "rollback", "abort", "reconcile")

_DEFAULT_S = 180
_MISSED = 3
_HEARTBEAT = "prefect.flow-run.heartbeat"


def mark_dead_runs() -> str:
    """Mark runs as crashed whose process is gone; best effort, returns what was done.

    Only how runs look depends on it: releases go by their record.
    """
    try:
        with get_client(sync_client=True) as client:
            dead = [run for run in _running(client) if _is_dead(client, run)]
            for run in dead:
                reason = f"no heartbeat for {_silence_s():.0f} s: its process is gone"
                client.set_flow_run_state(run.id, Crashed(message=reason), force=True)
    except (PrefectException, httpx.HTTPError) as error:
        return f"not looked for: {error}"
    return ", ".join(run.name for run in dead) or "none"


def _running(client: SyncPrefectClient) -> list[FlowRun]:
    state = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
    found: list[FlowRun] = client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=list(FLOWS))),
        flow_run_filter=FlowRunFilter(state=state),
    )
    return found


def _is_dead(client: SyncPrefectClient, run: FlowRun) -> bool:
    began = run.start_time or datetime.now(UTC)
    silent_since = datetime.now(UTC) - timedelta(seconds=_silence_s())
    if began > silent_since:
        return False
    return _had_heartbeat(client, run, since=began) and not _had_heartbeat(
        client, run, since=silent_since
    )


def _had_heartbeat(client: SyncPrefectClient, run: FlowRun, *, since: datetime) -> bool:
    wanted = {
        "filter": {
            "event": {"name": [_HEARTBEAT]},
            "resource": {"id": [f"prefect.flow-run.{run.id}"]},
            "occurred": {"since": since.isoformat(), "until": datetime.now(UTC).isoformat()},
        },
        "limit": 1,
    }
    answer = client.request("POST", "/events/filter", json=wanted)
    answer.raise_for_status()
    return bool(answer.json()["events"])


def _silence_s() -> float:
    every_s = get_current_settings().flows.heartbeat_frequency or _DEFAULT_S
    return _MISSED * float(every_s)
