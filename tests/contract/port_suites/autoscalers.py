"""The promises of `slipway.ports.Autoscalers`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from slipway.core.errors import ConflictError
from slipway.core.release.scaling import Autoscaler
from slipway.core.routing import Slot
from slipway.core.service import Autoscaling
from slipway.manifests.autoscaling import autoscaler, object_kind
from slipway.manifests.names import with_fence
from slipway.ports.workloads import Autoscalers


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscalersSubject:
    """What is under test.

    Args:
        service: installed for this test alone; nothing scales its slots.
        settings: of the kind of object under test.
        wait: calls a look until it is true, and fails the test when that takes too long.
    """

    autoscalers: Autoscalers
    service: str
    namespace: str
    settings: Autoscaling
    wait: Callable[[Callable[[], bool]], None]

    @property
    def target(self) -> str:
        """Name of the Deployment of slot blue; there need not be one."""
        return f"{self.service}-blue"

    def manifest(self, floor: int = 2) -> dict[str, Any]:
        """Return what scales slot blue."""
        return autoscaler(
            self.service,
            self.namespace,
            self.settings,
            slot=Slot.BLUE,
            workload=self.target,
            floor=floor,
        )

    def apply(self, floor: int = 2, *, fence: int | None = None) -> Autoscaler:
        """Apply it, and look at it."""
        made = self.manifest(floor)
        self.autoscalers.apply(made if fence is None else with_fence(made, fence))
        return self.found()

    def every(self) -> tuple[Autoscaler, ...]:
        """Look at what scales slot blue."""
        return self.autoscalers.find(self.namespace, (self.target,))

    def found(self) -> Autoscaler:
        """Look at it; there must be one."""
        (found,) = self.every()
        return found

    def remove(self) -> None:
        """Remove it as it is now, again when its controller wrote meanwhile."""

        def removed() -> bool:
            for found in self.every():
                try:
                    self.autoscalers.remove(self.namespace, found)
                except ConflictError:
                    return False
            return self.every() == ()

        self.wait(removed)


class AutoscalersSuite:
    """What scales a slot is found whoever made it; ours is written under the lock's number."""

    @pytest.fixture
    def subject(self) -> AutoscalersSubject:
        """Return what is under test; overridden."""
        raise NotImplementedError

    def test_slot_that_nothing_scales_has_none(self, subject: AutoscalersSubject) -> None:
        assert subject.every() == ()

    def test_object_applied_is_found_as_ours(self, subject: AutoscalersSubject) -> None:
        found = subject.apply(3)
        assert (found.kind, found.name) == (object_kind(subject.settings), subject.target)
        assert (found.ours, found.target) == (True, subject.target)
        assert (found.min_replicas, found.max_replicas) == (3, subject.settings.max_replicas)

    def test_only_the_deployments_asked_for_are_looked_at(
        self, subject: AutoscalersSubject
    ) -> None:
        subject.apply()
        other = f"{subject.service}-green"
        assert subject.autoscalers.find(subject.namespace, (other,)) == ()
        both = subject.autoscalers.find(subject.namespace, (other, subject.target))
        assert [found.target for found in both] == [subject.target]

    def test_same_object_applied_twice_equals_once(self, subject: AutoscalersSubject) -> None:
        assert subject.apply().uid == subject.apply().uid

    def test_dry_run_writes_nothing(self, subject: AutoscalersSubject) -> None:
        subject.autoscalers.apply(subject.manifest(), dry_run=True)
        assert subject.every() == ()

    def test_floor_is_set_and_nothing_else(self, subject: AutoscalersSubject) -> None:
        before = subject.apply(2)
        subject.autoscalers.set_floor(subject.namespace, before, 4)
        subject.autoscalers.set_floor(subject.namespace, before, 4)
        after = subject.found()
        assert after == replace(before, min_replicas=4, resource_version=after.resource_version)

    def test_applying_again_takes_a_floor_over(self, subject: AutoscalersSubject) -> None:
        subject.autoscalers.set_floor(subject.namespace, subject.apply(2), 4)
        assert subject.apply(3).min_replicas == 3

    def test_object_that_was_replaced_keeps_its_floor(self, subject: AutoscalersSubject) -> None:
        before = subject.apply()
        subject.remove()
        subject.apply()
        with pytest.raises(ConflictError) as caught:
            subject.autoscalers.set_floor(subject.namespace, before, 4)
        assert caught.value.code == "conflict"
        assert subject.found().min_replicas == 2

    def test_object_removed_is_gone(self, subject: AutoscalersSubject) -> None:
        subject.apply()
        subject.remove()
        assert subject.every() == ()

    def test_object_that_changed_since_is_not_removed(self, subject: AutoscalersSubject) -> None:
        before = subject.apply()
        subject.autoscalers.set_floor(subject.namespace, before, 4)
        with pytest.raises(ConflictError) as caught:
            subject.autoscalers.remove(subject.namespace, before)
        assert caught.value.code == "conflict"
        assert subject.found().uid == before.uid

    def test_missing_object_is_no_error(self, subject: AutoscalersSubject) -> None:
        before = subject.apply()
        subject.remove()
        subject.autoscalers.remove(subject.namespace, before)
        subject.autoscalers.set_floor(subject.namespace, before, 4)
        subject.autoscalers.stamp(subject.namespace, before, fence=7)
        assert subject.every() == ()

    def test_smaller_number_of_a_lock_writes_nothing(self, subject: AutoscalersSubject) -> None:
        first = subject.apply(2, fence=6)
        subject.autoscalers.stamp(subject.namespace, first, fence=7)
        stale: list[Callable[[], object]] = [
            lambda: subject.apply(3, fence=6),
            lambda: subject.autoscalers.set_floor(subject.namespace, first, 3, fence=6),
            lambda: subject.autoscalers.stamp(subject.namespace, first, fence=6),
        ]
        for write in stale:
            with pytest.raises(ConflictError) as caught:
                write()
            assert caught.value.code == "lock-lost"
        assert subject.found().min_replicas == 2
        subject.autoscalers.set_floor(subject.namespace, first, 3, fence=8)
        assert subject.found().min_replicas == 3
