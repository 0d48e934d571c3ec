"""The promises of `slipway.ports.Workloads`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from slipway.core.errors import ConflictError, PermanentError
from slipway.core.rollout import (
    RolloutObservation,
    RolloutPatience,
    RolloutState,
    RolloutVerdict,
    judge_rollout,
)
from slipway.core.routing import Slot
from slipway.core.service import ServiceSpec
from slipway.manifests.names import RELEASE_LABEL, test_pod_name, with_fence, workload_name
from slipway.manifests.workload import slot_deployment, test_pod
from slipway.ports.workloads import Manifest, Workloads

_PATIENCE = RolloutPatience(replica_failure_s=0, unschedulable_s=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadsSubject:
    """What is under test.

    Args:
        spec: a service installed for this test alone, without any workload.
        image: reference by digest of an image whose pods become ready.
        missing_image: reference by digest that no registry has.
        wait: calls a look until it is true, and fails the test when that takes too long.
    """

    workloads: Workloads
    spec: ServiceSpec
    image: str
    missing_image: str
    wait: Callable[[Callable[[], bool]], None]

    @property
    def name(self) -> str:
        """Name of the Deployment of slot blue."""
        return workload_name(self.spec.name, Slot.BLUE)

    def deployment(self, release_id: str = "r-1", *, image: str | None = None) -> dict[str, Any]:
        """Return the Deployment of slot blue."""
        return slot_deployment(
            self.spec,
            slot=Slot.BLUE,
            workload=self.name,
            image=image or self.image,
            release_id=release_id,
        )

    def pod(self) -> Manifest:
        """Return a bare test pod."""
        return test_pod(self.spec, image=self.image, release_id="r-1")

    def observe(self) -> RolloutObservation | None:
        """Look at slot blue."""
        return self.workloads.observe(self.spec.namespace, self.name)

    def present(self) -> RolloutObservation:
        """Look at slot blue, which must exist."""
        observed = self.observe()
        assert observed is not None
        return observed

    def verdict(self, generation: int) -> RolloutVerdict:
        """Look at slot blue and judge it."""
        return judge_rollout(self.present(), generation=generation, patience=_PATIENCE)

    def scale(self, replicas: int, *, fence: int | None = None) -> None:
        """Scale slot blue as it is now, again when its controller wrote meanwhile."""

        def scaled() -> bool:
            seen = self.present()
            try:
                self.workloads.scale(
                    self.spec.namespace,
                    self.name,
                    replicas,
                    uid=seen.uid,
                    resource_version=seen.resource_version,
                    fence=fence,
                )
            except ConflictError as error:
                if error.code != "conflict":
                    raise
                return False
            return True

        self.wait(scaled)

    def deploy(self, release_id: str = "r-1") -> RolloutObservation:
        """Deploy slot blue and wait until it is ready."""
        applied = self.workloads.apply(self.deployment(release_id))
        self.wait(lambda: self.verdict(applied.generation).state is RolloutState.READY)
        return self.present()


class WorkloadsSuite:
    """Applying is idempotent, looking is honest, and what was replaced is never touched."""

    @pytest.fixture
    def subject(self) -> WorkloadsSubject:
        """Return what is under test; overridden."""
        raise NotImplementedError

    def test_objects_that_do_not_exist_are_none_and_no_error(
        self, subject: WorkloadsSubject
    ) -> None:
        namespace = subject.spec.namespace
        assert subject.observe() is None
        assert subject.workloads.pod(namespace, "nobody") is None
        subject.workloads.scale(namespace, subject.name, 0, uid="none", resource_version="1")
        subject.workloads.stamp(namespace, subject.name, fence=1)
        subject.workloads.delete("Pod", namespace, "nobody", uid="none")

    def test_dry_run_is_checked_and_writes_nothing(self, subject: WorkloadsSubject) -> None:
        answer = subject.workloads.apply(subject.deployment(), dry_run=True)
        assert (answer.kind, answer.name) == ("Deployment", subject.name)
        assert subject.observe() is None

    def test_unknown_field_is_refused(self, subject: WorkloadsSubject) -> None:
        manifest = subject.deployment()
        manifest["spec"]["replica"] = 3
        with pytest.raises(PermanentError, match="replica"):
            subject.workloads.apply(manifest)
        assert subject.observe() is None

    def test_deployment_applied_becomes_ready_with_image_and_addresses(
        self, subject: WorkloadsSubject
    ) -> None:
        observed = subject.deploy()
        assert (observed.name, observed.release_id) == (subject.name, "r-1")
        assert observed.desired == subject.spec.replicas == len(observed.ready_pods)
        for pod in observed.ready_pods:
            assert pod.image_digest == subject.image.rpartition("@")[2]
            assert pod.address
        assert len({pod.uid for pod in observed.ready_pods}) == subject.spec.replicas

    def test_same_manifest_applied_twice_equals_once(self, subject: WorkloadsSubject) -> None:
        before = subject.deploy()
        again = subject.workloads.apply(subject.deployment())
        after = subject.present()
        assert (again.uid, again.generation) == (before.uid, before.generation)
        assert {pod.uid for pod in after.ready_pods} == {pod.uid for pod in before.ready_pods}

    def test_new_release_replaces_the_pods_and_keeps_the_deployment(
        self, subject: WorkloadsSubject
    ) -> None:
        first = subject.deploy("r-1")
        second = subject.deploy("r-2")
        assert second.uid == first.uid
        assert second.generation > first.generation
        assert second.release_id == "r-2"
        assert not {pod.uid for pod in second.pods} & {pod.uid for pod in first.pods}

    def test_image_that_no_registry_has_fails_by_name(self, subject: WorkloadsSubject) -> None:
        broken = subject.deployment(image=subject.missing_image)
        applied = subject.workloads.apply(broken)
        subject.wait(lambda: subject.verdict(applied.generation).state is RolloutState.FAILED)
        assert subject.verdict(applied.generation).code == "image-pull-failed"

    def test_number_that_is_applied_no_more_falls_to_one_unless_it_was_scaled(
        self, subject: WorkloadsSubject
    ) -> None:
        """What a slot meets that was applied with a number, and is scaled by its load now."""
        stated = subject.deployment()
        unstated = {**stated, "spec": {**stated["spec"]}}
        del unstated["spec"]["replicas"]
        subject.workloads.apply(stated)
        subject.workloads.apply(unstated)
        assert subject.present().desired == 1
        subject.scale(3)
        subject.workloads.apply({**unstated, "spec": {**unstated["spec"], "minReadySeconds": 2}})
        assert subject.present().desired == 3

    def test_scale_to_zero_ends_every_pod(self, subject: WorkloadsSubject) -> None:
        subject.deploy()
        subject.scale(0)
        subject.wait(lambda: not subject.present().pods)
        assert subject.present().desired == 0
        subject.scale(0)

    def test_label_taken_off_is_on_no_pod_that_comes(self, subject: WorkloadsSubject) -> None:
        subject.deploy()
        subject.scale(0)
        subject.wait(lambda: not subject.present().pods)
        namespace, name = subject.spec.namespace, subject.name
        for _ in range(2):
            subject.workloads.unlabel(namespace, name, (RELEASE_LABEL,))
        assert subject.present().release_id is None
        subject.workloads.unlabel(namespace, "nobody", (RELEASE_LABEL,))

    def test_scale_of_a_replaced_deployment_is_a_conflict_and_changes_nothing(
        self, subject: WorkloadsSubject
    ) -> None:
        deployed = subject.deploy()
        with pytest.raises(ConflictError):
            subject.workloads.scale(
                subject.spec.namespace,
                subject.name,
                0,
                uid="another",
                resource_version=deployed.resource_version,
            )
        assert subject.present().desired == deployed.desired

    def test_scale_of_a_deployment_changed_since_it_was_observed_is_a_conflict(
        self, subject: WorkloadsSubject
    ) -> None:
        seen = subject.deploy()
        subject.workloads.stamp(subject.spec.namespace, subject.name, fence=1)
        with pytest.raises(ConflictError) as caught:
            subject.workloads.scale(
                subject.spec.namespace,
                subject.name,
                0,
                uid=seen.uid,
                resource_version=seen.resource_version,
            )
        assert caught.value.code == "conflict"
        assert subject.present().desired == seen.desired

    def test_writes_under_a_smaller_number_are_refused_as_lock_lost(
        self, subject: WorkloadsSubject
    ) -> None:
        before = subject.deploy()
        subject.workloads.stamp(subject.spec.namespace, subject.name, fence=3)
        for write in (
            lambda: subject.workloads.apply(with_fence(subject.deployment("r-2"), 2)),
            lambda: subject.scale(0, fence=2),
            lambda: subject.workloads.stamp(subject.spec.namespace, subject.name, fence=2),
        ):
            with pytest.raises(ConflictError) as caught:
                write()
            assert caught.value.code == "lock-lost"
        after = subject.present()
        assert (after.desired, after.release_id) == (before.desired, "r-1")

    def test_number_on_a_deployment_replaces_no_pod(self, subject: WorkloadsSubject) -> None:
        before = subject.deploy()
        subject.workloads.stamp(subject.spec.namespace, subject.name, fence=3)
        applied = subject.workloads.apply(with_fence(subject.deployment(), 4))
        subject.wait(lambda: subject.verdict(applied.generation).state is RolloutState.READY)
        after = subject.present()
        assert {pod.uid for pod in after.pods} == {pod.uid for pod in before.pods}

    def test_writes_under_the_same_number_or_a_higher_one_go_through(
        self, subject: WorkloadsSubject
    ) -> None:
        subject.workloads.apply(with_fence(subject.deployment(), 3))
        subject.scale(1, fence=3)
        assert subject.present().desired == 1
        subject.workloads.apply(with_fence(subject.deployment("r-2"), 4))
        assert subject.present().release_id == "r-2"

    def test_bare_pod_becomes_ready_and_is_gone_after_its_deletion(
        self, subject: WorkloadsSubject
    ) -> None:
        namespace, name = subject.spec.namespace, test_pod_name(subject.spec.name)
        applied = subject.workloads.apply(subject.pod())

        def ready() -> bool:
            pod = subject.workloads.pod(namespace, name)
            return pod is not None and pod.ready

        subject.wait(ready)
        pod = subject.workloads.pod(namespace, name)
        assert pod is not None
        assert (pod.uid, pod.image_digest) == (applied.uid, subject.image.rpartition("@")[2])
        subject.workloads.delete("Pod", namespace, name, uid=applied.uid)
        assert subject.workloads.pod(namespace, name) is None

    def test_deletion_of_a_replaced_object_is_a_conflict_and_it_stays(
        self, subject: WorkloadsSubject
    ) -> None:
        namespace, name = subject.spec.namespace, test_pod_name(subject.spec.name)
        subject.workloads.apply(subject.pod())
        with pytest.raises(ConflictError):
            subject.workloads.delete("Pod", namespace, name, uid="another")
        assert subject.workloads.pod(namespace, name) is not None

    def test_event_about_the_record_is_written(self, subject: WorkloadsSubject) -> None:
        subject.workloads.event(
            subject.spec.namespace,
            subject.spec.name,
            reason="Released",
            message="by the contract suite",
            warning=False,
        )
