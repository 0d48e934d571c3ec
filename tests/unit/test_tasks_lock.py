"""The lock keeper: a release acts only while its lock is surely its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from slipway.core.errors import ConflictError, PermanentError, SlipwayError, TransientError
from slipway.ports.records import Lease
from tasks.lock import LEASE_DURATION_S, PATIENCE_S, LockKeeper, take_lock
from tests.examples import holder_on
from tests.fakes.cluster import FakeCluster
from tests.fakes.releases import FakeReleases

_NEVER_S = 3600.0


class TroubledReleases(FakeReleases):
    """A store whose renewals and releases fail as told, and whose answers are late as told."""

    trouble: SlipwayError | None = None
    troubled_calls = 1_000_000
    lost_answers = 0
    """To takes that were carried out."""

    answers_after_s: Sequence[float] = ()

    def lock(self, service: str) -> Lease:
        found = super().lock(service)
        self._be_late()
        return found

    def _be_late(self) -> None:
        if self.answers_after_s:
            late_s, *self.answers_after_s = self.answers_after_s
            self._cluster.clock.advance(late_s)

    def renew(self, lease: Lease) -> Lease:
        self._be_late()
        if self.trouble is not None:
            raise self.trouble
        return super().renew(lease)

    def take(self, found: Lease, *, holder: str, duration_s: float) -> Lease:
        taken = super().take(found, holder=holder, duration_s=duration_s)
        if self.lost_answers:
            self.lost_answers -= 1
            raise _unreachable()
        return taken

    def release(self, lease: Lease) -> None:
        if self.trouble is not None and self.troubled_calls:
            self.troubled_calls -= 1
            raise self.trouble
        super().release(lease)


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster.serving("chat")


@pytest.fixture
def releases(cluster: FakeCluster) -> TroubledReleases:
    return TroubledReleases(cluster)


def _keeper(
    cluster: FakeCluster,
    releases: FakeReleases,
    *,
    every_s: float = _NEVER_S,
    report: Callable[[str], None] = lambda _text: None,
) -> LockKeeper:
    lease = releases.take(releases.lock("chat"), holder="me", duration_s=LEASE_DURATION_S)
    clock = cluster.clock
    return LockKeeper(
        *(releases, lease),
        renew_every_s=every_s,
        monotonic=clock.monotonic,
        sleep=clock.sleep,
        report=report,
    )


def _unreachable() -> TransientError:
    return TransientError("no answer", code="api-unreachable", hint="wait")


def test_lock_renewed_in_time_stays_good(cluster: FakeCluster, releases: TroubledReleases) -> None:
    keeper = _keeper(cluster, releases)
    for _ in range(5):
        cluster.clock.advance(10)
        keeper.renew()
        keeper.check()
    keeper.close()


def test_lock_not_renewed_in_time_is_waited_for_and_lost_when_that_takes_too_long(
    cluster: FakeCluster, releases: TroubledReleases
) -> None:
    keeper = _keeper(cluster, releases)
    releases.trouble = _unreachable()
    keeper.check()  # nothing is known of the trouble yet, and nobody may take it for 15 s
    cluster.clock.advance(LEASE_DURATION_S - 2)
    asked_s = cluster.clock.monotonic()
    with pytest.raises(ConflictError) as caught:
        keeper.check()
    assert caught.value.code == "lock-lost"
    assert cluster.clock.monotonic() - asked_s == pytest.approx(PATIENCE_S, abs=2)
    releases.trouble = None
    keeper.renew()
    with pytest.raises(ConflictError):  # it has been given up
        keeper.check()
    keeper.close()


@pytest.mark.parametrize("outage_s", [1, 20, 100])
def test_lock_in_doubt_is_good_again_once_it_could_be_renewed(
    cluster: FakeCluster, releases: TroubledReleases, outage_s: float
) -> None:
    said: list[str] = []
    keeper = _keeper(cluster, releases, report=said.append)
    releases.trouble = _unreachable()
    ends_s = cluster.clock.monotonic() + LEASE_DURATION_S + outage_s

    def come_back() -> None:
        if cluster.clock.monotonic() >= ends_s:
            releases.trouble = None

    cluster.clock.while_waiting.append(come_back)
    cluster.clock.advance(LEASE_DURATION_S)
    keeper.check()
    assert ends_s <= cluster.clock.monotonic() < ends_s + 1
    assert [text.split(":")[0] for text in said] == [
        "the lock cannot be renewed",
        f"the lock is renewed after {outage_s} s",
    ]
    keeper.close()


def test_lock_in_doubt_that_another_took_meanwhile_is_lost_without_a_write(
    cluster: FakeCluster, releases: TroubledReleases
) -> None:
    keeper = _keeper(cluster, releases)
    cluster.clock.advance(LEASE_DURATION_S)
    taken = releases.take(releases.lock("chat"), holder=holder_on("other"), duration_s=15)
    with pytest.raises(ConflictError, match="other"):
        keeper.check()
    keeper.close()
    assert cluster.leases["chat"] == taken


def test_renewal_that_took_longer_than_the_lock_lasts_is_renewed_again(
    cluster: FakeCluster, releases: TroubledReleases
) -> None:
    keeper = _keeper(cluster, releases)
    releases.answers_after_s = [20.0]
    keeper.renew()
    before = keeper.lease.version
    keeper.check()
    assert keeper.lease.version != before
    keeper.close()


def test_regained_lock_was_renewed_after_it_was_asked_for(
    cluster: FakeCluster, releases: TroubledReleases
) -> None:
    keeper = _keeper(cluster, releases)
    before = keeper.lease.version
    keeper.regain()
    assert keeper.lease.version != before
    keeper.close()


@pytest.mark.parametrize("step_s", [3600, -3600])
def test_clock_that_steps_changes_nothing_of_a_lock_held(
    cluster: FakeCluster, releases: TroubledReleases, step_s: float
) -> None:
    keeper = _keeper(cluster, releases)
    for _ in range(3):
        cluster.clock.step(step_s)
        cluster.clock.advance(5)
        keeper.renew()
        version = keeper.lease.version
        keeper.check()
        assert keeper.lease.version == version  # it was not in doubt
    keeper.close()


@pytest.fixture
def taking(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let `take_lock` run on the fake clock; returns what it reports."""
    monkeypatch.setattr("tasks.lock.time", cluster.clock)
    return []


def _take(releases: FakeReleases, said: list[str]) -> Lease:
    return take_lock(releases, "chat", holder="heir", report=said.append)


def test_free_lock_is_taken_at_once(
    cluster: FakeCluster, releases: TroubledReleases, taking: list[str]
) -> None:
    assert _take(releases, taking).holder == "heir"
    assert (cluster.clock.waits_s, taking) == ([], [])


def test_lock_taken_without_an_answer_is_held_under_one_fence(
    cluster: FakeCluster, releases: TroubledReleases, taking: list[str]
) -> None:
    fence = cluster.leases["chat"].fence
    releases.lost_answers = 2
    lease = _take(releases, taking)
    assert (lease.holder, lease.fence) == ("heir", fence + 1)
    assert lease.version == cluster.leases["chat"].version


def test_lock_that_another_took_while_nobody_was_answered_is_refused(
    cluster: FakeCluster, releases: TroubledReleases, taking: list[str]
) -> None:
    class TakenOver(TroubledReleases):
        def take(self, found: Lease, *, holder: str, duration_s: float) -> Lease:
            if holder == "heir" and not self.lock("chat").holder:
                super().take(found, holder=holder_on("other"), duration_s=duration_s)
                raise _unreachable()
            return super().take(found, holder=holder, duration_s=duration_s)

    with pytest.raises(ConflictError):
        _take(TakenOver(cluster), taking)
    assert cluster.leases["chat"].holder == holder_on("other")


@pytest.mark.parametrize("step_s", [0, 3600, -3600])
@pytest.mark.parametrize("dead_for_s", [0, 100])
def test_lock_of_a_dead_holder_is_taken_once_it_did_not_change_for_its_duration(
    cluster: FakeCluster,
    releases: TroubledReleases,
    taking: list[str],
    step_s: float,
    dead_for_s: float,
) -> None:
    dead = releases.take(
        releases.lock("chat"), holder=holder_on("dead"), duration_s=LEASE_DURATION_S
    )
    cluster.clock.advance(dead_for_s)
    cluster.clock.step(step_s)
    began_s = cluster.clock.monotonic()
    lease = _take(releases, taking)
    assert (lease.holder, lease.fence) == ("heir", dead.fence + 1)
    assert cluster.clock.monotonic() - began_s == pytest.approx(LEASE_DURATION_S, abs=1)
    assert taking == [
        f"service chat is locked by {holder_on('dead')}: watching for 15 s whether it lives"
    ]


@pytest.mark.parametrize("step_s", [0, 3600, -3600])
def test_lock_of_a_living_holder_is_refused_whatever_the_clocks_say(
    cluster: FakeCluster, releases: TroubledReleases, taking: list[str], step_s: float
) -> None:
    held = releases.take(
        releases.lock("chat"), holder=holder_on("alive"), duration_s=LEASE_DURATION_S
    )
    cluster.clock.step(step_s)
    began_s = cluster.clock.monotonic()

    def renew() -> None:
        if cluster.clock.monotonic() - began_s >= 5:
            releases.renew(held)

    cluster.clock.while_waiting.append(renew)
    with pytest.raises(ConflictError, match="alive") as caught:
        _take(releases, taking)
    assert caught.value.code == "release-running"
    assert cluster.clock.monotonic() - began_s < 6


def test_lock_given_back_while_it_is_watched_is_taken(
    cluster: FakeCluster, releases: TroubledReleases, taking: list[str]
) -> None:
    held = releases.take(
        releases.lock("chat"), holder=holder_on("ends"), duration_s=LEASE_DURATION_S
    )
    cluster.clock.while_waiting.append(lambda: releases.release(held))
    assert _take(releases, taking).holder == "heir"
    assert len(cluster.clock.waits_s) == 1


def test_lock_taken_by_another_while_it_is_watched_is_refused(
    cluster: FakeCluster, releases: TroubledReleases, taking: list[str]
) -> None:
    releases.take(releases.lock("chat"), holder=holder_on("dead"), duration_s=LEASE_DURATION_S)

    def take_first() -> None:
        releases.take(releases.lock("chat"), holder=holder_on("faster"), duration_s=15)

    cluster.clock.while_waiting.append(take_first)
    with pytest.raises(ConflictError, match="faster"):
        _take(releases, taking)


def test_time_in_which_nobody_is_answered_does_not_count_against_the_holder(
    cluster: FakeCluster, releases: TroubledReleases, taking: list[str]
) -> None:
    releases.take(releases.lock("chat"), holder=holder_on("cut-off"), duration_s=LEASE_DURATION_S)
    began_s = cluster.clock.monotonic()
    releases.answers_after_s = [0.0, 0.0, 0.0, 20.0]
    assert _take(releases, taking).holder == "heir"
    assert cluster.clock.monotonic() - began_s > 20 + LEASE_DURATION_S


def test_lock_for_longer_than_is_worth_watching_is_refused_at_once(
    cluster: FakeCluster, releases: TroubledReleases, taking: list[str]
) -> None:
    releases.take(releases.lock("chat"), holder=holder_on("other"), duration_s=3600)
    with pytest.raises(ConflictError, match="other"):
        _take(releases, taking)
    assert cluster.clock.waits_s == []


@pytest.mark.parametrize("stranger", ["kube-scheduler", "ann", "host/1/ab12cd3", "host/x/ab12cd34"])
def test_lock_that_a_stranger_holds_is_refused_at_once_with_what_to_do(
    cluster: FakeCluster, releases: TroubledReleases, taking: list[str], stranger: str
) -> None:
    releases.take(releases.lock("chat"), holder=stranger, duration_s=LEASE_DURATION_S)
    with pytest.raises(PermanentError, match=stranger) as caught:
        _take(releases, taking)
    assert (caught.value.code, cluster.clock.waits_s) == ("lock-foreign", [])
    assert "Lease slipway-chat" in caught.value.hint


def test_lock_taken_over_is_lost_and_left_alone(
    cluster: FakeCluster, releases: TroubledReleases
) -> None:
    keeper = _keeper(cluster, releases)
    taken = releases.take(releases.lock("chat"), holder=holder_on("other"), duration_s=15)
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
    next_one = releases.take(releases.lock("chat"), holder=holder_on("next"), duration_s=15)
    assert next_one.fence == fence + 1


def test_close_while_the_cluster_is_away_hides_no_outcome(
    cluster: FakeCluster, releases: TroubledReleases
) -> None:
    keeper = _keeper(cluster, releases)
    releases.trouble = _unreachable()
    keeper.close()
    assert cluster.leases["chat"].holder == "me"  # it runs out by itself


def test_lock_is_given_back_although_the_cluster_did_not_answer_at_first(
    cluster: FakeCluster, releases: TroubledReleases
) -> None:
    keeper = _keeper(cluster, releases)
    releases.trouble, releases.troubled_calls = _unreachable(), 2
    keeper.close()
    assert cluster.leases["chat"].holder == ""


def test_own_thread_renews_until_closed(cluster: FakeCluster, releases: TroubledReleases) -> None:
    keeper = _keeper(cluster, releases, every_s=0.001)
    first = keeper.lease.version
    while keeper.lease.version == first:
        keeper.check()
    keeper.close()
    kept = cluster.leases["chat"]
    assert kept.holder == ""
    assert kept.version != first
