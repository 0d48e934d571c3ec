"""The lock keeper: a release acts only while its lock is surely its own."""

from __future__ import annotations

import pytest

from slipway.core.errors import ConflictError, PermanentError, SlipwayError, TransientError
from slipway.ports import Lease
from tasks.lock import LEASE_DURATION_S, LockKeeper
from tests.fakes.clock import FakeClock
from tests.fakes.cluster import FakeCluster
from tests.fakes.releases import FakeReleases

_NEVER_S = 3600.0


class TroubledReleases(FakeReleases):
    """A store whose renewals and releases fail as told."""

    trouble: SlipwayError | None = None

    def renew(self, lease: Lease) -> Lease:
        if self.trouble is not None:
            raise self.trouble
        return super().renew(lease)

    def release(self, lease: Lease) -> None:
        if self.trouble is not None:
            raise self.trouble
        super().release(lease)


@pytest.fixture
def cluster() -> FakeCluster:
    cluster = FakeCluster(clock=FakeClock())
    cluster.install("chat")
    return cluster


@pytest.fixture
def releases(cluster: FakeCluster) -> TroubledReleases:
    return TroubledReleases(cluster)


def _keeper(
    cluster: FakeCluster, releases: FakeReleases, *, every_s: float = _NEVER_S
) -> LockKeeper:
    lease = releases.acquire("chat", holder="me", duration_s=LEASE_DURATION_S)
    return LockKeeper(releases, lease, renew_every_s=every_s, monotonic=cluster.clock.monotonic)


def _unreachable() -> TransientError:
    return TransientError("no answer", code="api-unreachable", hint="wait")


def test_lock_renewed_in_time_stays_good(cluster: FakeCluster, releases: TroubledReleases) -> None:
    keeper = _keeper(cluster, releases)
    for _ in range(5):
        cluster.clock.advance(10)
        keeper.renew()
        keeper.check()
    keeper.close()


def test_lock_not_renewed_in_time_is_lost_before_another_may_take_it(
    cluster: FakeCluster, releases: TroubledReleases
) -> None:
    keeper = _keeper(cluster, releases)
    releases.trouble = _unreachable()
    cluster.clock.advance(LEASE_DURATION_S - 2)
    keeper.renew()
    with pytest.raises(ConflictError) as caught:
        keeper.check()
    assert caught.value.code == "lock-lost"
    with pytest.raises(ConflictError):  # two seconds are still left for the last write to arrive
        FakeReleases(cluster).acquire("chat", holder="other", duration_s=15)
    keeper.close()


def test_lost_lock_stays_lost_when_a_later_renewal_succeeds(
    cluster: FakeCluster, releases: TroubledReleases
) -> None:
    keeper = _keeper(cluster, releases)
    cluster.clock.advance(LEASE_DURATION_S)
    with pytest.raises(ConflictError):
        keeper.check()
    keeper.renew()
    with pytest.raises(ConflictError):
        keeper.check()
    keeper.close()


def test_lock_taken_over_is_lost_and_left_alone(
    cluster: FakeCluster, releases: TroubledReleases
) -> None:
    keeper = _keeper(cluster, releases)
    cluster.clock.advance(LEASE_DURATION_S + 1)
    taken = releases.acquire("chat", holder="other", duration_s=15)
    keeper.renew()
    with pytest.raises(ConflictError, match="other"):
        keeper.check()
    keeper.close()
    assert cluster.leases["chat"] == taken


def test_lock_whose_renewal_is_forbidden_is_lost(
    cluster: FakeCluster, releases: TroubledReleases
) -> None:
    keeper = _keeper(cluster, releases)
    releases.trouble = PermanentError("leases is forbidden", code="forbidden", hint="grant it")
    keeper.renew()
    with pytest.raises(ConflictError, match="forbidden"):
        keeper.check()
    keeper.close()


def test_closed_lock_is_free_for_the_next_one(
    cluster: FakeCluster, releases: TroubledReleases
) -> None:
    keeper = _keeper(cluster, releases)
    fence = keeper.lease.fence
    keeper.close()
    assert releases.acquire("chat", holder="next", duration_s=15).fence == fence + 1


def test_close_while_the_cluster_is_away_hides_no_outcome(
    cluster: FakeCluster, releases: TroubledReleases
) -> None:
    keeper = _keeper(cluster, releases)
    releases.trouble = _unreachable()
    keeper.close()
    assert cluster.leases["chat"].holder == "me"  # it runs out by itself


def test_own_thread_renews_until_closed(cluster: FakeCluster, releases: TroubledReleases) -> None:
    keeper = _keeper(cluster, releases, every_s=0.001)
    first = keeper.lease.version
    while keeper.lease.version == first:
        keeper.check()
    keeper.close()
    kept = cluster.leases["chat"]
    assert kept.holder == ""
    assert kept.version != first
