"""What Prefect says of the runs of a release: cancelled by a person, or dead again and again."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterName,
    FlowRunFilterStartTime,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import PrefectException

from slipway.core.errors import TransientError
from slipway.core.release.record import ReleaseRecord

_DEAD_RUNS = 5


def why_not_again(record: ReleaseRecord) -> str:
    """Return why an unfinished release must be taken back instead of gone on with; "" when not.

    A person who cancels its run means the release; a worker that ends, or a machine, does not. And
    a release that kills every process that works on it would be gone on with for ever.

    Raises:
        TransientError: Prefect does not say.
    """
    runs = _runs(record)
    if runs and runs[0].state is not None and runs[0].state.is_cancelled():
        return f"run {runs[0].name} was cancelled in Prefect"
    dead = sum(run.state is not None and run.state.is_crashed() for run in runs)
    return f"{dead} of its runs died" if dead >= _DEAD_RUNS else ""


def _runs(record: ReleaseRecord) -> list[FlowRun]:
    """Return the runs of this release, the newest first."""
    kind = "rollback" if record.rollback else "release"
    what = "rollback" if record.rollback else f"v{record.version}"
    since = datetime.fromtimestamp(record.started_at_ns / 1e9 - 60, UTC)
    try:
        with get_client(sync_client=True) as client:
            found: list[FlowRun] = client.read_flow_runs(
                flow_filter=FlowFilter(name=FlowFilterName(any_=[kind])),
                flow_run_filter=FlowRunFilter(
                    name=FlowRunFilterName(any_=[f"{record.service}-{what}"]),
                    start_time=FlowRunFilterStartTime.model_validate({"after_": since}),
                ),
                sort=FlowRunSort.START_TIME_DESC,
            )
    except (PrefectException, httpx.HTTPError) as error:
        raise TransientError(
            f"Prefect does not say how the runs of {record.release_id} ended: {error}",
            code="orchestrator-unreachable",
            hint="start it (slipway sandbox up), or set PREFECT_API_URL to one that runs",
        ) from error
    return found
