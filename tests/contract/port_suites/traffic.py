"""The promises of `slipway.ports.Traffic`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from uuid import uuid4

import pytest

from slipway.core.errors import ConflictError, PermanentError, TransientError
from slipway.core.routing import (
    PREVIEW_HEADER,
    PURPOSE_HEADER,
    Preview,
    Route,
    Share,
    Slot,
    all_to,
    empty,
    with_preview,
    without_slot,
)
from slipway.core.traffic import AccessRow, LogPosition
from slipway.ports.traffic import Traffic, WayIn
from tests.fakes.gateway import GatewayAnswer

_TOKEN = "c0ffee" * 5
_CONFIRM_S = 30.0
_BOTH = frozenset(Slot)
_NONE: Mapping[str, str] = {}
# Above those of a run before this one on the same sandbox.
_fences = count(int(time.time()))


def next_fence() -> int:
    """Return a fencing number above all before it: tests may share one service."""
    return next(_fences)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficSubject:
    """What is under test.

    Args:
        service: has ready pods in both slots; its route is empty.
        missing_service: name of a service that is not installed.
        nobody_status: of answers before the first release.
        ask: sends one request that way, with these extra headers.
        wait: calls a look until it is true, and fails the test when that takes too long.
    """

    traffic: Traffic
    service: str
    missing_service: str
    ask: Callable[[WayIn, Mapping[str, str]], GatewayAnswer]
    wait: Callable[[Callable[[], bool]], None]
    nobody_status: int = 503

    def ask_as_user(self, headers: Mapping[str, str] = _NONE) -> GatewayAnswer:
        """Send one request as a user does, with these extra headers."""
        return self.ask(self.traffic.way_in(None), headers)

    def ask_candidate(self, slot: Slot) -> GatewayAnswer:
        """Send one request of our own to the slot under preview."""
        return self.ask(self.traffic.way_in(Preview(slot=slot, token=_TOKEN)), {})

    def switch(self, route: Route) -> None:
        """Write a route and wait until the gateway serves by it."""
        self.traffic.apply(route, fence=next_fence())
        proof = self.traffic.confirm(route, timeout_s=_CONFIRM_S)
        assert proof.revision == route.revision
        assert proof.requests > 0

    def log_position(self) -> LogPosition:
        """Return a position after the rows of all requests so far, which a gateway may log late."""
        begin, purpose = self.traffic.access_end(self.service), f"mark-{uuid4()}"
        self.ask_as_user({PURPOSE_HEADER: purpose})

        def found() -> list[AccessRow]:
            rows = self.traffic.access_rows(self.service, after=begin).rows
            return [row for row in rows if row.purpose == purpose]

        self.wait(lambda: bool(found()))
        return self.traffic.access_rows(self.service, after=begin).end


class TrafficSuite:
    """A route confirmed is the route users get; nobody else sees the preview."""

    @pytest.fixture
    def subject(self) -> TrafficSubject:
        """Return what is under test; overridden."""
        raise NotImplementedError

    def test_route_confirmed_serves_users_from_its_slot(self, subject: TrafficSubject) -> None:
        route = all_to(subject.service, Slot.BLUE)
        subject.switch(route)
        assert subject.traffic.read(subject.service) == route
        answer = subject.ask_as_user()
        assert (answer.status, answer.slot) == (200, "blue")

    def test_same_route_applied_twice_equals_once(self, subject: TrafficSubject) -> None:
        route = all_to(subject.service, Slot.BLUE)
        subject.switch(route)
        subject.switch(route)
        assert subject.traffic.read(subject.service) == route

    def test_smaller_number_would_be_refused_and_asking_changes_nothing(
        self, subject: TrafficSubject
    ) -> None:
        traffic, service, low, high = subject.traffic, subject.service, next_fence(), next_fence()
        traffic.stamp(service, fence=high)
        before = traffic.read(service)
        assert traffic.refuses(service, fence=low)
        assert not traffic.refuses(service, fence=high)
        assert not traffic.refuses(service, fence=next_fence())
        assert traffic.read(service) == before
        traffic.stamp(service, fence=high)  # the higher one that was asked about is not there

    def test_missing_service_has_no_number_to_ask_about(self, subject: TrafficSubject) -> None:
        with pytest.raises(PermanentError):
            subject.traffic.refuses(subject.missing_service, fence=next_fence())

    def test_switch_moves_users_and_keeps_the_old_slot_known(self, subject: TrafficSubject) -> None:
        subject.switch(all_to(subject.service, Slot.BLUE))
        route = all_to(subject.service, Slot.GREEN, subsets=_BOTH)
        subject.switch(route)
        assert subject.ask_as_user().slot == "green"
        assert subject.traffic.read(subject.service).subsets == _BOTH

    def test_route_never_written_is_not_confirmed(self, subject: TrafficSubject) -> None:
        with pytest.raises(TransientError) as caught:
            subject.traffic.confirm(all_to(subject.service, Slot.GREEN), timeout_s=0.5)
        assert caught.value.code == "route-not-confirmed"

    def test_route_under_a_smaller_number_is_refused_as_lock_lost_and_users_stay(
        self, subject: TrafficSubject
    ) -> None:
        stale, kept = next_fence(), all_to(subject.service, Slot.BLUE)
        subject.switch(kept)
        for route in (
            all_to(subject.service, Slot.GREEN),  # its slot would have to be made known first
            empty(subject.service),
        ):
            with pytest.raises(ConflictError) as caught:
                subject.traffic.apply(route, fence=stale)
            assert caught.value.code == "lock-lost"
        assert subject.traffic.read(subject.service) == kept
        assert subject.ask_as_user().slot == "blue"

    def test_number_stamped_on_the_route_keeps_it_and_refuses_smaller_ones(
        self, subject: TrafficSubject
    ) -> None:
        kept = all_to(subject.service, Slot.BLUE)
        subject.switch(kept)
        stale, number = next_fence(), next_fence()
        subject.traffic.stamp(subject.service, fence=number)
        subject.traffic.stamp(subject.service, fence=number)
        with pytest.raises(ConflictError) as caught:
            subject.traffic.stamp(subject.service, fence=stale)
        assert caught.value.code == "lock-lost"
        with pytest.raises(ConflictError) as caught:
            subject.traffic.apply(empty(subject.service), fence=stale)
        assert caught.value.code == "lock-lost"
        assert subject.traffic.read(subject.service) == kept

    def test_service_not_installed_is_refused_by_name(self, subject: TrafficSubject) -> None:
        calls: tuple[Callable[[], object], ...] = (
            lambda: subject.traffic.read(subject.missing_service),
            lambda: subject.traffic.apply(empty(subject.missing_service)),
            lambda: subject.traffic.stamp(subject.missing_service, fence=1),
        )
        for call in calls:
            with pytest.raises(PermanentError, match=subject.missing_service) as caught:
                call()
            assert caught.value.code == "not-installed"

    def test_candidate_is_reached_by_its_own_way_while_users_stay(
        self, subject: TrafficSubject
    ) -> None:
        subject.switch(all_to(subject.service, Slot.BLUE))
        route = with_preview(all_to(subject.service, Slot.BLUE), Slot.GREEN, _TOKEN)
        subject.switch(route)
        assert subject.traffic.read(subject.service) == route
        assert subject.ask_candidate(Slot.GREEN).slot == "green"
        assert subject.ask_as_user().slot == "blue"

    def test_slot_withdrawn_from_the_preview_is_read_back_as_withdrawn(
        self, subject: TrafficSubject
    ) -> None:
        both = with_preview(all_to(subject.service, Slot.BLUE), Slot.GREEN, _TOKEN)
        subject.switch(both)
        subject.switch(without_slot(both, Slot.GREEN))
        assert subject.traffic.read(subject.service) == all_to(subject.service, Slot.BLUE)
        assert subject.ask_candidate(Slot.GREEN).slot != "green"


class GatewaySuite(TrafficSuite):
    """A gateway tells users from the preview, divides them, and says what it did."""

    def test_service_never_released_answers_an_error_by_the_empty_route(
        self, subject: TrafficSubject
    ) -> None:
        route = subject.traffic.read(subject.service)
        assert route == empty(subject.service)
        subject.traffic.confirm(route, timeout_s=_CONFIRM_S)
        answer = subject.ask_as_user()
        assert (answer.status, answer.revision) == (subject.nobody_status, route.revision)

    def test_answers_name_the_route_that_they_came_by(self, subject: TrafficSubject) -> None:
        route = all_to(subject.service, Slot.BLUE)
        subject.switch(route)
        assert subject.ask_as_user().revision == route.revision

    def test_preview_reaches_the_candidate_by_its_token_alone(
        self, subject: TrafficSubject
    ) -> None:
        subject.switch(all_to(subject.service, Slot.BLUE))
        route = with_preview(all_to(subject.service, Slot.BLUE), Slot.GREEN, _TOKEN)
        subject.switch(route)
        assert subject.traffic.read(subject.service) == route
        assert subject.ask_as_user({PREVIEW_HEADER: _TOKEN}).slot == "green"
        assert subject.ask_as_user().slot == "blue"
        assert subject.ask_as_user({PREVIEW_HEADER: _TOKEN[:-1]}).slot == "blue"

    def test_preview_before_the_first_release_leaves_users_without_answer(
        self, subject: TrafficSubject
    ) -> None:
        subject.switch(with_preview(empty(subject.service), Slot.BLUE, _TOKEN))
        assert subject.ask_as_user({PREVIEW_HEADER: _TOKEN}).slot == "blue"
        assert subject.ask_as_user().status == subject.nobody_status

    def test_withdrawn_slot_leaves_no_trace(self, subject: TrafficSubject) -> None:
        both = with_preview(all_to(subject.service, Slot.BLUE), Slot.GREEN, _TOKEN)
        subject.switch(both)
        route = without_slot(both, Slot.GREEN)
        subject.switch(route)
        assert subject.traffic.read(subject.service) == all_to(subject.service, Slot.BLUE)
        assert subject.ask_as_user({PREVIEW_HEADER: _TOKEN}).slot == "blue"

    def test_divided_route_is_read_back_as_written(self, subject: TrafficSubject) -> None:
        route = Route(
            service=subject.service,
            shares=(Share(slot=Slot.BLUE, percent=70), Share(slot=Slot.GREEN, percent=30)),
            subsets=_BOTH,
        )
        subject.switch(route)
        assert subject.traffic.read(subject.service) == route

    def test_idle_slots_have_no_open_streams(self, subject: TrafficSubject) -> None:
        subject.switch(all_to(subject.service, Slot.BLUE))
        assert subject.traffic.open_streams(subject.service, Slot.BLUE) == 0
        assert subject.traffic.open_streams(subject.service, Slot.GREEN) == 0

    def test_requests_leave_rows_with_slot_route_and_purpose(self, subject: TrafficSubject) -> None:
        route = all_to(subject.service, Slot.BLUE)
        subject.switch(route)
        begin = subject.log_position()
        subject.ask_as_user()
        subject.ask_as_user({PURPOSE_HEADER: "smoke"})

        def rows() -> list[tuple[str, int, str, str]]:
            found = subject.traffic.access_rows(subject.service, after=begin).rows
            return sorted((row.slot, row.status, row.route_revision, row.purpose) for row in found)

        subject.wait(lambda: len(rows()) >= 2)
        assert rows() == [
            ("blue", 200, route.revision, ""),
            ("blue", 200, route.revision, "smoke"),
        ]

    def test_each_look_returns_what_was_logged_since_the_last(
        self, subject: TrafficSubject
    ) -> None:
        traffic, service = subject.traffic, subject.service
        subject.switch(all_to(service, Slot.BLUE))
        begin = subject.log_position()
        subject.ask_as_user()
        subject.wait(lambda: len(traffic.access_rows(service, after=begin).rows) == 1)
        first = traffic.access_rows(service, after=begin)
        assert traffic.access_rows(service, after=first.end).rows == ()
        subject.ask_as_user({PURPOSE_HEADER: "smoke"})
        subject.wait(lambda: len(traffic.access_rows(service, after=first.end).rows) == 1)
        (row,) = traffic.access_rows(service, after=first.end).rows
        assert row.purpose == "smoke"
        assert traffic.access_rows(service, after=begin).rows == (*first.rows, row)
