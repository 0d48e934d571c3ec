"""Routes as values: who gets the users, who gets the preview header, which slots are known."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum

from slipway.core.errors import InputError

PREVIEW_HEADER = "x-slipway-preview"
"""Request header whose secret value, random per release, reaches the candidate."""

PURPOSE_HEADER = "x-slipway-purpose"
"""Request header that marks traffic of ours (smoke, benchmark, probe): never counted as users'."""

ROUTE_HEADER = "x-slipway-route"
"""Response header with the revision of the route that served a request."""

SLOT_HEADER = "x-slipway-slot"
"""Response header with the slot that served a request."""


PREVIEW_RULE = "preview"
"""Name of the rule that the preview header matches; the gateway logs it with each request."""

USERS_RULE = "users"
"""Name of the rule of everybody else."""

SESSION_HEADER = "x-session-id"
"""Request header whose value a sticky split goes by; requests without it are divided at random."""


class Slot(StrEnum):
    """An identity, two per service; never a role."""

    BLUE = "blue"
    GREEN = "green"

    @property
    def other(self) -> Slot:
        """The service's other slot."""
        return Slot.GREEN if self is Slot.BLUE else Slot.BLUE


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Integer percent of the users' requests that one slot gets."""

    slot: Slot
    percent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """Requests that carry `PREVIEW_HEADER: token` go to `slot`, whatever the shares."""

    slot: Slot
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The whole routing of one service.

    Args:
        shares: users' traffic; sums to 100, or is empty before the first release (answers 503).
        preview: the header route of a release under way, if any.
        subsets: slots the gateway knows endpoints of; contains every slot named above.

    Raises:
        InputError: the shares do not sum to 100, repeat a slot, or name one that is no subset.
    """

    service: str
    shares: tuple[Share, ...] = ()
    preview: Preview | None = None
    subsets: frozenset[Slot] = frozenset()

    def __post_init__(self) -> None:
        total = sum(share.percent for share in self.shares)
        slots = [share.slot for share in self.shares]
        if self.shares and (total != 100 or any(share.percent <= 0 for share in self.shares)):
            raise _wrong(self.service, f"shares must be positive and sum to 100, not {total}")
        if len(set(slots)) != len(slots):
            raise _wrong(self.service, "a slot appears twice in the shares")
        named = set(slots) | ({self.preview.slot} if self.preview else set())
        if not named <= self.subsets:
            missing = ", ".join(sorted(named - self.subsets))
            raise _wrong(self.service, f"routed slots are no subsets: {missing}")

    @property
    def revision(self) -> str:
        """Twelve hex digits that change whenever the route does."""
        text = repr(
            (
                self.service,
                sorted((share.slot.value, share.percent) for share in self.shares),
                (self.preview.slot.value, self.preview.token) if self.preview else None,
                sorted(slot.value for slot in self.subsets),
            )
        )
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def percent(self, slot: Slot) -> int:
        """Return the percent of users' requests that `slot` gets."""
        return sum(share.percent for share in self.shares if share.slot is slot)

    def names(self, slot: Slot) -> bool:
        """Return whether any rule sends traffic to `slot`."""
        return self.percent(slot) > 0 or (self.preview is not None and self.preview.slot is slot)


def _wrong(service: str, problem: str) -> InputError:
    return InputError(
        f"route of service {service}: {problem}",
        code="route-invalid",
        hint="this is a defect of the caller; report it with the release record",
    )


def empty(service: str) -> Route:
    """Return the route of a service that has never been released."""
    return Route(service=service)


def all_to(service: str, slot: Slot, *, subsets: frozenset[Slot] = frozenset()) -> Route:
    """Return the route that gives every user to `slot`.

    Args:
        service: whose route it is.
        slot: who gets the users.
        subsets: further slots that stay known to the gateway because they are still warm.
    """
    return Route(
        service=service,
        shares=(Share(slot=slot, percent=100),),
        subsets=subsets | {slot},
    )


def split(service: str, *, stable: Slot, candidate_percent: int) -> Route:
    """Return the route that gives the other slot `candidate_percent` of the users.

    Args:
        service: whose route it is.
        stable: the slot that serves the rest.
        candidate_percent: 1..99.
    """
    shares = (
        Share(slot=stable, percent=100 - candidate_percent),
        Share(slot=stable.other, percent=candidate_percent),
    )
    return Route(service=service, shares=shares, subsets=frozenset(Slot))


def with_preview(route: Route, slot: Slot, token: str) -> Route:
    """Return `route` with the header route to `slot` added; the users' shares stay."""
    return Route(
        service=route.service,
        shares=route.shares,
        preview=Preview(slot=slot, token=token),
        subsets=route.subsets | {slot},
    )


def without_slot(route: Route, slot: Slot) -> Route:
    """Return `route` without any trace of `slot`, which must not serve users.

    Raises:
        InputError: the slot still has a share of the users.
    """
    return Route(
        service=route.service,
        shares=route.shares,
        preview=None if route.preview and route.preview.slot is slot else route.preview,
        subsets=route.subsets - {slot},
    )
