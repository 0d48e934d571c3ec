"""Which versions of a backup are kept, and why: grandfather, father, son over verified ones.

A version that nobody has read back is a hope: it fills no place of the policy. What passed a full
verification last is kept whatever the policy says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from slipway.core.backup.periods import Period, period_number
from slipway.core.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One backup of a model, with what speaks for keeping it.

    Args:
        name: of its manifest, unique in the repository.
        taken_at_ns: when its files were read.
        verified_at_ns: when every byte of it was last read back and right; None: never.
        broken: a chunk of it is known to be damaged or missing.
        tags: given by people.
        holds: reasons for which people forbade its removal.
        in_use: what runs it, or may go back to it ("live", "rollback target", an alias).
    """

    name: str
    model: str
    taken_at_ns: int
    verified_at_ns: int | None = None
    broken: bool = False
    tags: frozenset[str] = frozenset()
    holds: tuple[str, ...] = ()
    in_use: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is kept of each model; a count of 0 keeps nothing by that rule.

    Args:
        last: so many of the newest verified versions.
        periods: so many of the last periods that have a verified version, the newest of each.
        tags: versions with one of these are kept.
        min_age_s: younger versions are kept, verified or not.
    """

    last: int = 3
    periods: Mapping[Period, int] = field(default_factory=dict)
    tags: frozenset[str] = frozenset()
    min_age_s: int = 86_400

    def __post_init__(self) -> None:
        """Refuse what means nothing."""
        counts = (("last", self.last), ("min_age_s", self.min_age_s), *self.periods.items())
        for name, count in counts:
            if count < 0:
                raise InputError(
                    f"the retention's {name} is {count}",
                    code="retention-invalid",
                    hint="write 0 to keep nothing by that rule, or how many to keep",
                )


Reasons = Mapping[str, tuple[str, ...]]
"""Name of a version → why it is kept, in words; empty: it may be removed."""


def reasons_to_keep(versions: Iterable[Version], policy: Policy, *, now_ns: int) -> Reasons:
    """Return for each version why it is kept.

    Args:
        versions: of any models; each model is looked at by itself.
        policy: for every model.
        now_ns: by the clock that `taken_at_ns` was taken from.
    """
    found: dict[str, tuple[str, ...]] = {}
    by_model: dict[str, list[Version]] = {}
    for version in versions:
        by_model.setdefault(version.model, []).append(version)
    for of_model in by_model.values():
        of_model.sort(key=lambda item: (item.taken_at_ns, item.name), reverse=True)
        by_policy = _by_policy(of_model, policy)
        for version in of_model:
            found[version.name] = (
                *_by_itself(version, policy, now_ns),
                *by_policy.get(version.name, ()),
            )
    return found


def _by_itself(version: Version, policy: Policy, now_ns: int) -> Iterable[str]:
    yield from (f"held: {reason}" for reason in version.holds)
    yield from (f"in use: {use}" for use in version.in_use)
    yield from (f"tag {tag}" for tag in sorted(version.tags & policy.tags))
    if now_ns - version.taken_at_ns < policy.min_age_s * 10**9:
        yield f"younger than {policy.min_age_s} s"


def _by_policy(newest_first: Sequence[Version], policy: Policy) -> Mapping[str, list[str]]:
    kept: dict[str, list[str]] = {}

    def keep(version: Version, why: str) -> None:
        kept.setdefault(version.name, []).append(why)

    verified = [item for item in newest_first if item.verified_at_ns is not None]
    good = [item for item in verified if not item.broken]
    keep(newest_first[0], "the newest")
    # One that has broken since is kept while no good one is there: parts of it can be healed.
    for version in (good or verified)[:1]:
        keep(version, "verified last")
    for version in good[: policy.last]:
        keep(version, f"one of the last {policy.last}")
    for period, count in policy.periods.items():
        newest_of: dict[int, Version] = {}
        for version in good:
            newest_of.setdefault(period_number(period, version.taken_at_ns), version)
        for version in list(newest_of.values())[:count]:
            keep(version, period.value)
    return kept
