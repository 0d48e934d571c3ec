"""A release that outlives its lock: `python -m tests.e2e.zombie SERVICE VERSION`.

It opens the release as the flow does, says so, and waits for a line. The test stops it meanwhile
for longer than its lock lasts. Then it tries every write it knows, straight through its ports,
where no check of the lock is in the way: as a process does that was stopped between check and
write. It prints what became of each, as JSON.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace

from blocks.installation import current_settings
from slipway.bootstrap.releases import Ports, connect
from slipway.core.errors import SlipwayError
from slipway.core.release.record import ReleaseRecord
from slipway.core.rollout import RolloutObservation
from slipway.core.routing import Slot, all_to, empty
from slipway.manifests.names import test_pod_name, with_fence
from slipway.manifests.workload import slot_deployment, test_pod
from slipway.ports.workloads import Manifest
from tasks.leftover import settle_leftover
from tasks.session import ReleaseSession, evidence_prefix, opened_release

HOLDING = "holding"
WRITTEN = "written"


def main(service: str, version: str) -> None:
    """Hold the release, be stopped, and write."""
    with opened_release(service, version, settle=settle_leftover) as session:
        zombie = Zombie(connect(service, current_settings()), session)
        _say(HOLDING)
        sys.stdin.readline()
        _say(json.dumps({name: _outcome(write) for name, write in zombie.writes().items()}))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Zombie:
    """What a release knew when it was stopped, and what it can do with it.

    Args:
        ports: not guarded by the lock.
        session: the same release's own, guarded.
    """

    def __init__(self, ports: Ports, session: ReleaseSession) -> None:
        self._ports = ports
        self._session = session
        self._spec = ports.spec
        stored = ports.releases.load(ports.spec.name)
        assert stored is not None
        assert stored.record.stable is not None
        self._stored = stored
        self._lease = ports.releases.lock(ports.spec.name)
        self._fence = self._lease.fence
        self._image = stored.record.slot(stored.record.stable).image
        self._pod_uid = ports.workloads.apply(self._pod()).uid
        self._seen = self._observed(stored.record.stable)

    def writes(self) -> dict[str, Callable[[], object]]:
        """Return every write, by its name."""
        name, fence, traffic = self._spec.name, self._fence, self._ports.traffic
        workloads, namespace = self._ports.workloads, self._spec.namespace
        stable, record = self._stored.record.stable, self._stored.record
        assert stable is not None
        found: dict[str, Callable[[], object]] = {
            "its own check": self._session.check_lock,
            "renewal of the lock": lambda: self._ports.releases.renew(self._lease),
            "record as it was read": lambda: self._save(record, self._stored.version),
            "record as it stands": self._save_anew,
            "route to a slot not known": lambda: traffic.apply(
                all_to(name, stable, subsets=frozenset(Slot)), fence=fence
            ),
            "route to nobody": lambda: traffic.apply(empty(name), fence=fence),
            "stamp on the routes": lambda: traffic.stamp(name, fence=fence),
            "Deployment that never was": lambda: workloads.apply(
                self._deployment(stable, f"{name}-third")
            ),
            "scale as it was observed": lambda: self._scale(stable, self._seen),
            "test pod": lambda: workloads.apply(self._pod()),
            "deletion of its test pod": lambda: workloads.delete(
                "Pod", namespace, test_pod_name(name), uid=self._pod_uid
            ),
            "alias": lambda: self._ports.registry.set_alias(self._spec.model, "live", "1"),
            "evidence": lambda: self._ports.objects.put(
                f"{evidence_prefix(record)}{fence:06d}/record.json", b"{}", content_type="text/json"
            ),
        }
        for slot in Slot:
            found |= self._writes_to(slot, record.slot(slot).workload)
        return found

    def _writes_to(self, slot: Slot, workload: str) -> dict[str, Callable[[], object]]:
        workloads, namespace = self._ports.workloads, self._spec.namespace
        return {
            f"Deployment of slot {slot}": lambda: workloads.apply(self._deployment(slot, workload)),
            f"scale of slot {slot} as it stands": lambda: self._scale(slot, self._observed(slot)),
            f"stamp on slot {slot}": lambda: workloads.stamp(
                namespace, workload, fence=self._fence
            ),
        }

    def _save(self, record: ReleaseRecord, version: str) -> None:
        mine = replace(record, reason="a zombie wrote this", fence=self._fence)
        self._ports.releases.save(mine, version=version)

    def _save_anew(self) -> None:
        now = self._ports.releases.load(self._spec.name)
        assert now is not None
        self._save(now.record, now.version)

    def _scale(self, slot: Slot, seen: RolloutObservation) -> None:
        self._ports.workloads.scale(
            self._spec.namespace,
            self._stored.record.slot(slot).workload,
            3,
            uid=seen.uid,
            resource_version=seen.resource_version,
            fence=self._fence,
        )

    def _observed(self, slot: Slot) -> RolloutObservation:
        workload = self._stored.record.slot(slot).workload
        seen = self._ports.workloads.observe(self._spec.namespace, workload)
        assert seen is not None
        return seen

    def _deployment(self, slot: Slot, workload: str) -> Manifest:
        manifest = slot_deployment(
            self._spec, slot=slot, workload=workload, image=self._image, release_id="zombie"
        )
        return with_fence(manifest, self._fence)

    def _pod(self) -> Manifest:
        return with_fence(test_pod(self._spec, image=self._image, release_id="zombie"), self._fence)


def _outcome(write: Callable[[], object]) -> str:
    """Return the code of the refusal and what refused."""
    try:
        write()
    except SlipwayError as error:
        policy = re.search(r"ValidatingAdmissionPolicy '([a-z-]+)'", error.message)
        if policy is not None:
            return f"{error.code}: {policy[1]}"
        by = {"object has been modified": "resourceVersion", "match the UID": "uid"}
        known = [name for words, name in by.items() if words in error.message]
        return f"{error.code}: {known[0] if known else error.message}"
    return WRITTEN


if __name__ == "__main__":
    main(*sys.argv[1:])
