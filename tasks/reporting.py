"""What a release leaves for people: artifacts of the run, evidence in the store, an event."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import httpx
from prefect.artifacts import create_markdown_artifact
from prefect.exceptions import PrefectException

from slipway.core.errors import SlipwayError
from slipway.core.release.record import Phase
from slipway.core.release.storage import from_storage, to_storage
from slipway.core.report import release_markdown
from tasks.session import ReleaseSession, evidence_prefix, lock_is_lost

_RECORD_FILE = "record.json"
_EVENT_REASONS = {Phase.DONE: "Released", Phase.ROLLED_BACK: "RolledBack"}


@contextmanager
def reported(session: ReleaseSession) -> Iterator[None]:
    """Report a release when it ends, well or not.

    Reporting never changes an outcome: what cannot be reported is said in the progress lines. When
    the lock is lost, the release is another process's to report.
    """
    try:
        yield
    except SlipwayError as error:
        if not lock_is_lost(error):
            _report(session)
        raise
    _report(session)


def outcome_of(session: ReleaseSession) -> dict[str, Any]:
    """Return the result of the flow run: plain values, readable in the UI."""
    record = session.record
    return {
        "release": record.release_id,
        "outcome": "done" if session.already_done else str(record.phase),
        "reason": "this version is live already" if session.already_done else record.reason,
        "slot": str(record.live_slot or ""),
        "image": record.digests.image,
        "already_done": session.already_done,
        "seconds": round(sum(item.seconds for item in session.times), 1),
        "stages": [asdict(item) for item in session.times],
        "evidence": session.ports.objects.url(evidence_prefix(record)),
    }


def publish_markdown(session: ReleaseSession, key: str, markdown: str, description: str) -> None:
    """Show `markdown` in the flow run as an artifact; best effort."""

    def publish(_: ReleaseSession) -> None:
        create_markdown_artifact(markdown=markdown, key=key, description=description)

    _best_effort(session, publish)


def _report(session: ReleaseSession) -> None:
    if session.already_done:
        _best_effort(session, _complete_evidence)
        return
    for report in (_store_record, _write_event, _write_artifacts):
        _best_effort(session, report)


def _complete_evidence(session: ReleaseSession) -> None:
    """Store what a process that died right after its last phase could not."""
    objects, record = session.ports.objects, session.record
    stored = [
        key for key in objects.list(evidence_prefix(record)) if key.endswith(f"/{_RECORD_FILE}")
    ]
    # Sorted, so the last one has the highest number. Each opening of the record raises its own.
    newest = from_storage(objects.get(stored[-1]).decode()) if stored else None
    if newest is None or replace(newest, fence=record.fence) != record:
        _store_record(session)


def _store_record(session: ReleaseSession) -> None:
    session.put_evidence(_RECORD_FILE, to_storage(session.record).encode(), "application/json")


def _write_event(session: ReleaseSession) -> None:
    record = session.record
    reason = _EVENT_REASONS.get(record.phase, "Unfinished")
    session.ports.workloads.event(
        session.spec.namespace,
        record.service,
        reason=reason,
        message=f"{record.release_id}: {record.phase}: {record.reason}",
        warning=record.phase is not Phase.DONE,
    )


def _write_artifacts(session: ReleaseSession) -> None:
    record = session.record
    stages = [(item.stage, item.seconds, item.proof) for item in session.times]
    markdown = release_markdown(record, stages, now_ns=time.time_ns())
    create_markdown_artifact(
        markdown=markdown,
        key=f"release-{record.service}",
        description=f"{record.release_id}: {record.phase}",
    )


def _best_effort(session: ReleaseSession, report: Any) -> None:
    try:
        report(session)
    except (SlipwayError, PrefectException, httpx.HTTPError) as error:
        session.progress.say(f"not reported: {error}")
