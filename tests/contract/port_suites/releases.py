"""The promises of `slipway.ports.Releases`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from slipway.core.errors import ConflictError, PermanentError
from slipway.core.release.admission import Request, Start, admit
from slipway.core.release.record import Phase, ReleaseRecord, advance
from slipway.ports.records import Lease, Releases


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasesSubject:
    """What is under test.

    Args:
        service: installed for this test alone; its record does not exist, its lock is free.
        missing_service: name of a service that is not installed.
        pass_time: lets that many seconds go by.
    """

    releases: Releases
    service: str
    missing_service: str
    pass_time: Callable[[float], None]


def a_record(service: str, *, version: str = "1", fence: int = 1) -> ReleaseRecord:
    """Return the record of a release that was just requested."""
    request = Request(service=service, model="demo", version=version)
    admission = admit(request, None, token="t" * 32, fence=fence, now_ns=1_790_000_000_000_000_001)
    assert isinstance(admission, Start)
    return admission.record


class ReleasesSuite:
    """Records are written by one hand at a time; locks have one holder and a growing fence."""

    @pytest.fixture
    def subject(self) -> ReleasesSubject:
        """Return what is under test; overridden."""
        raise NotImplementedError

    def test_record_of_a_service_never_released_is_none(self, subject: ReleasesSubject) -> None:
        assert subject.releases.load(subject.service) is None

    def test_record_saved_is_loaded_equal_with_its_version(self, subject: ReleasesSubject) -> None:
        record = replace(a_record(subject.service), reason='"quoted" ü → 日本\n')
        saved = subject.releases.save(record, version=None)
        assert saved.record == record
        assert subject.releases.load(subject.service) == saved

    def test_record_saved_again_under_its_version_is_replaced(
        self, subject: ReleasesSubject
    ) -> None:
        first = subject.releases.save(a_record(subject.service), version=None)
        changed = advance(first.record, Phase.BUILT, reason="built", now_ns=2)
        second = subject.releases.save(changed, version=first.version)
        assert second.version != first.version
        assert subject.releases.load(subject.service) == second

    def test_first_save_over_an_existing_record_is_a_conflict(
        self, subject: ReleasesSubject
    ) -> None:
        kept = subject.releases.save(a_record(subject.service), version=None)
        with pytest.raises(ConflictError):
            subject.releases.save(a_record(subject.service, version="2"), version=None)
        assert subject.releases.load(subject.service) == kept

    def test_save_under_an_old_version_is_a_conflict_and_changes_nothing(
        self, subject: ReleasesSubject
    ) -> None:
        first = subject.releases.save(a_record(subject.service), version=None)
        kept = subject.releases.save(replace(first.record, reason="kept"), version=first.version)
        with pytest.raises(ConflictError) as caught:
            subject.releases.save(replace(first.record, reason="stale"), version=first.version)
        assert caught.value.code == "conflict"
        assert subject.releases.load(subject.service) == kept

    def test_record_under_a_smaller_number_than_it_carries_is_refused_as_lock_lost(
        self, subject: ReleasesSubject
    ) -> None:
        kept = subject.releases.save(a_record(subject.service, fence=3), version=None)
        with pytest.raises(ConflictError) as caught:
            subject.releases.save(replace(kept.record, fence=2), version=kept.version)
        assert caught.value.code == "lock-lost"
        assert subject.releases.load(subject.service) == kept

    def test_first_record_under_a_smaller_number_than_the_locks_is_refused_as_lock_lost(
        self, subject: ReleasesSubject
    ) -> None:
        stale = _taken(subject, "dead").fence
        _taken(subject, "heir")
        with pytest.raises(ConflictError) as caught:
            subject.releases.save(a_record(subject.service, fence=stale), version=None)
        assert caught.value.code == "lock-lost"
        assert subject.releases.load(subject.service) is None

    def test_lock_of_a_service_not_installed_is_refused_naming_what_to_do(
        self, subject: ReleasesSubject
    ) -> None:
        with pytest.raises(PermanentError) as caught:
            subject.releases.lock(subject.missing_service)
        assert caught.value.code == "not-installed"
        assert caught.value.hint.endswith(f"slipway install {subject.missing_service}")

    def test_lock_of_a_service_just_installed_is_free(self, subject: ReleasesSubject) -> None:
        assert subject.releases.lock(subject.service).holder == ""

    def test_lock_taken_is_seen_with_its_holder(self, subject: ReleasesSubject) -> None:
        lease = _taken(subject, "a")
        assert (lease.service, lease.holder, lease.duration_s) == (subject.service, "a", 15)
        seen = subject.releases.lock(subject.service)
        assert (seen.holder, seen.fence, seen.duration_s) == ("a", lease.fence, 15)
        assert seen.version == lease.version

    def test_two_that_found_the_lock_free_one_takes_it(self, subject: ReleasesSubject) -> None:
        found = subject.releases.lock(subject.service)
        subject.releases.take(found, holder="first", duration_s=15)
        with pytest.raises(ConflictError):
            subject.releases.take(found, holder="second", duration_s=15)
        assert subject.releases.lock(subject.service).holder == "first"

    def test_lock_renewed_since_it_was_found_is_not_taken(self, subject: ReleasesSubject) -> None:
        lease = _taken(subject, "alive")
        found = subject.releases.lock(subject.service)
        subject.releases.renew(lease)
        with pytest.raises(ConflictError):
            subject.releases.take(found, holder="heir", duration_s=15)

    def test_holder_may_take_its_own_lock_again_under_the_same_fence(
        self, subject: ReleasesSubject
    ) -> None:
        first = _taken(subject, "a")
        assert _taken(subject, "a").fence == first.fence

    def test_lock_given_back_is_free_and_its_fence_grows(self, subject: ReleasesSubject) -> None:
        first = _taken(subject, "a")
        subject.releases.release(first)
        assert subject.releases.lock(subject.service).holder == ""
        assert _taken(subject, "b").fence > first.fence

    def test_lock_taken_over_has_its_heir_and_a_higher_fence(
        self, subject: ReleasesSubject
    ) -> None:
        first = _taken(subject, "dead")
        second = _taken(subject, "heir")
        assert second.holder == "heir"
        assert second.fence > first.fence

    def test_renewed_lock_shows_that_its_holder_lives(self, subject: ReleasesSubject) -> None:
        lease = _taken(subject, "a")
        subject.pass_time(0.01)
        renewed = subject.releases.renew(lease)
        assert renewed.renewed_at_ns > lease.renewed_at_ns
        assert renewed.fence == lease.fence
        assert subject.releases.lock(subject.service).version == renewed.version

    def test_lock_is_renewed_although_the_answer_to_a_renewal_was_lost(
        self, subject: ReleasesSubject
    ) -> None:
        lease = _taken(subject, "a")
        subject.releases.renew(lease)  # its answer, the new version, never arrived
        assert subject.releases.renew(lease).holder == "a"

    def test_renewal_of_a_lock_taken_over_is_a_conflict(self, subject: ReleasesSubject) -> None:
        old = _taken(subject, "dead")
        _taken(subject, "heir")
        with pytest.raises(ConflictError, match="heir"):
            subject.releases.renew(old)

    def test_lock_is_given_back_although_the_answer_to_a_renewal_was_lost(
        self, subject: ReleasesSubject
    ) -> None:
        lease = _taken(subject, "a")
        subject.releases.renew(lease)  # its answer, the new version, never arrived
        subject.releases.release(lease)
        assert subject.releases.lock(subject.service).holder == ""

    def test_release_of_a_lock_taken_over_leaves_it_alone(self, subject: ReleasesSubject) -> None:
        old = _taken(subject, "dead")
        heir = _taken(subject, "heir")
        subject.releases.release(old)
        assert subject.releases.renew(heir).holder == "heir"


def _taken(subject: ReleasesSubject, holder: str) -> Lease:
    found = subject.releases.lock(subject.service)
    return subject.releases.take(found, holder=holder, duration_s=15)
