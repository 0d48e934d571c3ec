"""Back up a version where it lies: a Job in the cluster reads the volume, and says what it did."""

from __future__ import annotations

import json
import time
from typing import Any

from slipway.bootstrap.releases import Ports
from slipway.core.errors import PermanentError, TransientError
from slipway.manifests.backups import VolumeSource, backup_job, snapshot_claim, volume_snapshot
from slipway.ports.backup_jobs import BackupJobs, JobLook
from slipway.ports.workloads import Manifest
from tasks.backup_reports import tell
from tasks.waiting import wait_until

_SNAPSHOT_TIMEOUT_S = 1_800
_JOB_TIMEOUT_S = 20 * 3600
_LEFTOVER_TIMEOUT_S = 300
_POLL_S = 2.0


def back_up_volume(ports: Ports, jobs: BackupJobs, source: VolumeSource) -> dict[str, Any]:
    """Have a Job back up a version on the service's volume; return what the Job said.

    Killed at any moment, the next call goes on with the Job where this one stopped; a Job that
    nobody waits for ends by itself, and is removed an hour later with its snapshot.

    Raises:
        PermanentError: `backup-job-failed` with its words, or `snapshot-failed`.
        TransientError: `backup-job-unread`, it succeeded and its words are lost;
            `backup-job-replaced`, somebody else has removed it.
    """
    image = ports.images.resolve(source.backup.image).reference
    job = _started(jobs, source, backup_job(source, image=image))
    try:
        if source.backup.snapshot_class:
            _snapshot(jobs, source, job.uid)
        return _awaited(jobs, source, job.uid)
    finally:
        jobs.remove(source.spec.namespace, source.name, job.uid)


def _started(jobs: BackupJobs, source: VolumeSource, job: Manifest) -> JobLook:
    """Make the Job, or go on with the one that is at the same; another one makes place.

    That one was left by somebody who was killed, or is ended: what it has sent is found again.
    """
    found = jobs.start(job)
    if found.subject != source.subject or found.succeeded is not None:
        jobs.remove(source.spec.namespace, source.name, found.uid)
        found = jobs.start(job)
    if found.subject != source.subject:
        raise _replaced(source)
    return found


def _replaced(source: VolumeSource) -> TransientError:
    return TransientError(
        f"Job {source.name} in namespace {source.spec.namespace} was removed by somebody else",
        code="backup-job-replaced",
        hint="it is tried again; end other runs that back up this service",
    )


def _made(jobs: BackupJobs, manifest: Manifest) -> None:
    """Make a snapshot or a claim, as soon as one of a Job before is gone."""

    def look() -> str | None:
        try:
            jobs.make(manifest)
        except TransientError as error:
            if error.code != "job-leftover":
                raise
            return error.message
        return None

    what = f"{manifest['kind']} {manifest['metadata']['name']} could be made"
    wait_until(look, timeout_s=_LEFTOVER_TIMEOUT_S, what=what, report=tell, poll_s=_POLL_S)


def _snapshot(jobs: BackupJobs, source: VolumeSource, job_uid: str) -> None:
    """Take a snapshot of the claim, and make the claim that the Job waits for."""
    namespace, name = source.spec.namespace, source.name
    claim = jobs.read("PersistentVolumeClaim", namespace, source.volume.claim)
    if claim is None:
        raise PermanentError(
            f"there is no claim {source.volume.claim} in namespace {namespace}",
            code="snapshot-failed",
            hint="correct volume.claim in the service file",
        )
    _made(jobs, volume_snapshot(source, job_uid=job_uid))
    sizes: list[str] = []

    def look() -> str | None:
        status = (jobs.read("VolumeSnapshot", namespace, name) or {}).get("status") or {}
        if status.get("error") is not None:
            raise PermanentError(
                f"the snapshot of claim {source.volume.claim} failed: "
                f"{status['error'].get('message', 'the driver does not say why')}",
                code="snapshot-failed",
                hint=f"kubectl -n {namespace} describe volumesnapshot {name}; without "
                "volume.backup.snapshot_class the claim itself is read",
            )
        if not status.get("readyToUse"):
            return f"snapshot {name} of claim {source.volume.claim} is taken"
        sizes.append(str(status.get("restoreSize") or ""))
        return None

    wait_until(
        look,
        timeout_s=_SNAPSHOT_TIMEOUT_S,
        what=f"snapshot {name} was ready",
        report=tell,
        poll_s=_POLL_S,
    )
    spec = claim["spec"]
    _made(
        jobs,
        snapshot_claim(
            source,
            job_uid=job_uid,
            storage_class=spec.get("storageClassName"),
            size=sizes[-1] or spec["resources"]["requests"]["storage"],
        ),
    )


def _awaited(jobs: BackupJobs, source: VolumeSource, uid: str) -> dict[str, Any]:
    namespace, name = source.spec.namespace, source.name
    found: list[JobLook] = []

    def look() -> str | None:
        job = jobs.look(namespace, name)
        if job is None or job.uid != uid:
            raise _replaced(source)
        if job.succeeded is None:
            return f"Job {name} backs up version {source.version}{_because(job.said)}"
        found.append(job)
        return None

    begun_s = time.monotonic()
    wait_until(
        look, timeout_s=_JOB_TIMEOUT_S, what=f"Job {name} ended", report=tell, poll_s=_POLL_S
    )
    said = jobs.output(namespace, name).strip()
    if not found[-1].succeeded:
        raise PermanentError(
            f"Job {name} in namespace {namespace} failed: {said or found[-1].said}",
            code="backup-job-failed",
            hint="mend what it says, and run the flow again",
        )
    return {**_result(said, name), "seconds": time.monotonic() - begun_s}


def _because(said: str) -> str:
    return f": {said}" if said else ""


def _result(said: str, name: str) -> dict[str, Any]:
    try:
        found = json.loads(said.splitlines()[-1])
        return {
            "backup": str(found["backup"]),
            "size_bytes": int(found["size_bytes"]),
            "sent_bytes": int(found["sent_bytes"]),
        }
    except (IndexError, ValueError, KeyError, TypeError) as error:
        raise TransientError(
            f"Job {name} succeeded, and what it wrote is not to be had: {said[:200]!r}",
            code="backup-job-unread",
            hint="it is run again, and finds its backup unchanged",
        ) from error
