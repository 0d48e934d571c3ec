"""The record is written once, whatever becomes of the API server's answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from slipway.core.errors import TransientError
from slipway.core.release.admission import Request, admit
from slipway.core.release.record import ReleaseRecord
from slipway.ports.records import StoredRecord
from tasks.lock import LockKeeper
from tasks.session import saved
from tests.fakes.cluster import FakeCluster
from tests.fakes.releases import FakeReleases


class Unanswered(FakeReleases):
    """A store that leaves saves unanswered: those it carried out, and those it never got."""

    def __init__(self, cluster: FakeCluster) -> None:
        super().__init__(cluster)
        self.carried_out: list[bool] = []

    def save(self, record: ReleaseRecord, *, version: str | None) -> StoredRecord:
        if not self.carried_out:
            return super().save(record, version=version)
        if self.carried_out.pop(0):
            super().save(record, version=version)
        raise TransientError("no answer", code="api-unreachable", hint="wait")


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster.serving("chat")


@pytest.fixture
def releases(cluster: FakeCluster) -> Unanswered:
    return Unanswered(cluster)


@pytest.fixture
def keeper(cluster: FakeCluster, releases: Unanswered) -> Iterator[LockKeeper]:
    lease = releases.take(releases.lock("chat"), holder="me", duration_s=15)
    clock = cluster.clock
    keeper = LockKeeper(releases, lease, monotonic=clock.monotonic, sleep=clock.sleep)
    yield keeper
    keeper.close()


def _record() -> ReleaseRecord:
    request = Request(service="chat", model="chat", version="1")
    return admit(request, None, token="t", fence=1, now_ns=1).record


@pytest.mark.parametrize(
    "carried_out", [[], [True], [False], [False, True], [False, False]], ids=str
)
def test_record_is_written_once_although_answers_are_lost(
    cluster: FakeCluster, releases: Unanswered, keeper: LockKeeper, carried_out: list[bool]
) -> None:
    releases.carried_out = list(carried_out)
    stored = saved(releases, keeper, _record(), None)
    assert stored == releases.load("chat")
    assert sum(line.startswith("record") for line in cluster.journal.writes) == 1


def test_record_that_is_never_answered_is_given_up(
    releases: Unanswered, keeper: LockKeeper
) -> None:
    releases.carried_out = [False] * 3
    with pytest.raises(TransientError):
        saved(releases, keeper, _record(), None)
    assert releases.load("chat") is None
