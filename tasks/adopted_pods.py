"""Labels on the pods of somebody else's Deployment, and on those it will make, with none restarted.

A Deployment makes new pods when its template differs from that of its ReplicaSet, whose template
may be changed, too. So the Deployment is paused, both templates get the same labels, and it goes
on: it finds them equal (kubernetes/kubernetes `pkg/controller/deployment/util`, EqualIgnoreHash and
FindNewReplicaSet). Its selector, which cannot change, stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

from slipway.manifests.adoption.changes import template_patch
from slipway.manifests.adoption.live import Live
from slipway.manifests.lint.finding import pod_labels
from slipway.ports.workloads import Manifest
from tasks.adopting import Adopting, changed_meanwhile, standing
from tasks.waiting import wait_until

_CONTROLLER_S = 60.0

Labels = Mapping[str, str | None]
"""Wanted values; None for a label that is to go."""


def label_pods(work: Adopting, live: Live, labels: Labels) -> int:
    """Put labels on a Deployment's pods, now and later; may be repeated. Returns how many it has.

    Raises:
        PermanentError: the Deployment is gone, or rolls out something else at this moment.
    """
    deployment, current = standing(work, live.deployment), current_replica_set(work, live)
    if _all_labelled(work, deployment, current, labels):
        return len(_pods_of(work, current))
    if not deployment["spec"].get("paused"):
        work.objects.patch(deployment, {"spec": {"paused": True}})
    _await_controller(work, live)
    current = current_replica_set(work, live)
    work.objects.patch(current, template_patch(labels))
    work.objects.patch(deployment, template_patch(labels))
    _await_controller(work, live)
    wait_until(
        lambda: _unlabelled(work, current, labels),
        timeout_s=_CONTROLLER_S,
        what=f"the pods of {live.workload} had their labels",
        report=work.progress.say,
    )
    work.objects.patch(deployment, {"spec": {"paused": None}})
    _await_controller(work, live)
    after = current_replica_set(work, live)
    if after["metadata"]["uid"] != current["metadata"]["uid"]:
        raise changed_meanwhile(
            f"Deployment {live.workload} rolls out something else at this moment",
            "wait until its rollout has come to an end, then run the command again",
        )
    return len(_pods_of(work, after))


def _all_labelled(work: Adopting, deployment: Manifest, current: Manifest, labels: Labels) -> bool:
    templates = all(_carries(pod_labels(item), labels) for item in (deployment, current))
    pods = all(_carries(pod_labels(pod), labels) for pod in _pods_of(work, current))
    return templates and pods and not deployment["spec"].get("paused")


def _unlabelled(work: Adopting, current: Manifest, labels: Labels) -> str | None:
    """Label pods that lack something; returns how many there were, None when there was none."""
    missing = [pod for pod in _pods_of(work, current) if not _carries(pod_labels(pod), labels)]
    for pod in missing:
        work.objects.patch(pod, {"metadata": {"labels": dict(labels)}})
    return f"{len(missing)} pods got their labels" if missing else None


def _carries(carried: Mapping[str, str], labels: Labels) -> bool:
    return all(carried.get(key) == value for key, value in labels.items())


def current_replica_set(work: Adopting, live: Live) -> Manifest:
    """Return the one ReplicaSet of the Deployment that has pods."""
    owner = standing(work, live.deployment)["metadata"]["uid"]
    found = [
        item
        for item in work.objects.list("ReplicaSet", work.spec.namespace)
        if _is_owned(item, owner) and int(item["spec"].get("replicas", 0))
    ]
    if len(found) != 1:
        raise changed_meanwhile(
            f"Deployment {live.workload} has pods in {len(found)} ReplicaSets, not in one",
            "wait until its rollout has come to an end, then run the command again",
        )
    return found[0]


def _pods_of(work: Adopting, replica_set: Manifest) -> list[Manifest]:
    owner = replica_set["metadata"]["uid"]
    pods = work.objects.list("Pod", work.spec.namespace)
    return [item for item in pods if _is_owned(item, owner)]


def _is_owned(item: Manifest, owner_uid: str) -> bool:
    owners = item["metadata"].get("ownerReferences") or ()
    return any(owner["uid"] == owner_uid for owner in owners)


def _await_controller(work: Adopting, live: Live) -> None:
    """Wait until the Deployment's controller has seen what was written last."""

    def look() -> str | None:
        found = standing(work, live.deployment)
        seen = int(found.get("status", {}).get("observedGeneration", 0))
        behind = seen < int(found["metadata"]["generation"])
        return f"the controller looks at Deployment {live.workload}" if behind else None

    wait_until(
        look,
        timeout_s=_CONTROLLER_S,
        what=f"the Deployment controller had seen {live.workload}",
        report=work.progress.say,
    )
