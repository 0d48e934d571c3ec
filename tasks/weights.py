"""Weights on a volume: what a pod must be told, and the removal of what no slot needs."""

from __future__ import annotations

from slipway.core.errors import PermanentError, SlipwayError, TransientError
from slipway.core.rollout import PodObservation, placing_failure
from slipway.core.service import WeightsVolume
from slipway.core.weights import PLACING_FAILED, s3_folder
from slipway.manifests.names import sweep_pod_name
from slipway.manifests.weights import WeightsFetch, sweep_pod
from slipway.ports.models import ModelVersion
from tasks.session import ReleaseSession, lock_is_lost
from tasks.waiting import wait_until

_SWEEP_TIMEOUT_S = 120.0


def require_place(session: ReleaseSession, version: ModelVersion) -> None:
    """Refuse a version that pods could not fetch, before anything is written.

    Raises:
        InputError: its files do not lie in S3, or the fetching program's image is missing.
    """
    volume = session.spec.volume
    if volume is not None:
        s3_folder(version.source, volume.artifacts)
        session.ports.images.resolve(volume.fetcher)


def weights_fetch(session: ReleaseSession) -> WeightsFetch | None:
    """Return what the pods of this release are told about their weights; None: in their image."""
    volume, record = session.spec.volume, session.record
    if volume is None:
        return None
    version = session.ports.registry.version(record.model, record.version)
    return WeightsFetch(
        volume=volume,
        image=session.ports.images.resolve(volume.fetcher).reference,
        source=s3_folder(version.source, volume.artifacts),
        sha256=record.digests.weights,
    )


def require_placed(session: ReleaseSession, pod: PodObservation) -> None:
    """Say why a bare pod's weights are not on the volume; nothing when they are.

    Raises:
        PermanentError: a repeat would not help.
        TransientError: it may.
    """
    if pod.placing_exit_code is None:
        return
    kind = TransientError if pod.placing_exit_code == PLACING_FAILED else PermanentError
    raise kind(
        placing_failure(pod),
        code="weights-not-placed",
        hint=f"mend what the message names; kubectl -n {session.spec.namespace} describe pod"
        f" {pod.name}",
    )


def sweep_weights(session: ReleaseSession) -> str:
    """Remove from the volume what neither slot refers to; returns what to say about it.

    It runs under the service's lock, so no other release places weights meanwhile. A release whose
    users are served does not fail for want of tidiness: the next one sweeps again.
    """
    volume = session.spec.volume
    if volume is None:
        return ""
    name = sweep_pod_name(session.spec.name)
    try:
        return _sweep(session, volume, name)
    except SlipwayError as error:
        if lock_is_lost(error):
            raise
        session.progress.say(f"old weights stay on the volume: {error.message}")
        return ", old weights stay on the volume"


def _sweep(session: ReleaseSession, volume: WeightsVolume, name: str) -> str:
    spec, record, workloads = session.spec, session.record, session.ports.workloads
    keep = sorted({slot.weights for slot in record.slots if slot.weights})
    image = session.ports.images.resolve(volume.fetcher).reference
    session.intend(f"sweep pod {name}")
    session.remove_pod(name)
    manifest = sweep_pod(spec, volume, image=image, release_id=record.release_id, keep=keep)
    pod = workloads.apply(manifest)
    try:
        seen: list[PodObservation] = []

        def look() -> str | None:
            observed = workloads.pod(spec.namespace, name)
            seen[:] = [observed] if observed is not None and observed.ended else []
            return None if seen else f"pod {name} removes old weights"

        wait_until(
            look,
            timeout_s=_SWEEP_TIMEOUT_S,
            what=f"pod {name} was through",
            report=session.progress.say,
        )
        said = workloads.log_tail(spec.namespace, name, lines=1).strip()
        if seen[0].last_exit_code:
            raise PermanentError(
                f"pod {name} could not remove old weights: {said or 'it said nothing'}",
                code="weights-not-swept",
                hint="the next release tries again; until then they take room on the claim",
            )
    finally:
        workloads.delete("Pod", spec.namespace, name, uid=pod.uid, wait=False)
    return f", old weights: {said}"
