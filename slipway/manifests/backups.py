"""The Job that backs up a version on a volume, and the snapshot that it reads.

Snapshot and claim belong to the Job: they go when it does, whoever removes it, and it removes
itself an hour after its end. The Job has no token and reads the volume only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slipway.core.service import ServiceSpec, VolumeBackup, WeightsVolume
from slipway.manifests.names import (
    MANAGED_BY_LABEL,
    MODEL_ACCOUNT,
    ROLE_LABEL,
    Object,
    backup_job_name,
    common_labels,
    metadata,
)
from slipway.manifests.weights import FILES_FOLDER

SUBJECT_ANNOTATION = "slipway.dev/backup-of"
"""On the Job: what it backs up. Whoever wants the same goes on with it, whoever made it."""

FOLDER = "/models"
"""Where the version's files are in the Job."""

SNAPSHOT_GROUP = "snapshot.storage.k8s.io"

_VOLUME = "models"
_USER = 65532
_DEADLINE_S = 20 * 3600
"""Less than a day, after which a removal counts its run as ended (`slipway.backup.taking`)."""

_TTL_S = 3600
_STARTING_DEADLINE_S = 6 * 3600
_REPEATS = 3
_USELESS_TO_REPEAT = (1, 2, 3, 6)
"""Exit codes of the command line: faults, wrong input, refused for good (`cli/exit_codes.py`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSource:
    """A version on a service's volume, to be backed up.

    Args:
        spec: the service; its volume has a `backup`.
        version: of the registry.
        weights: digest of its files; the folder has this name, and the files must have this sum.
    """

    spec: ServiceSpec
    version: str
    weights: str

    @property
    def volume(self) -> WeightsVolume:
        """Return where the files lie."""
        if self.spec.volume is None:
            raise ValueError(f"service {self.spec.name} has no volume")
        return self.spec.volume

    @property
    def backup(self) -> VolumeBackup:
        """Return how they are backed up."""
        if self.volume.backup is None:
            raise ValueError(f"the volume of service {self.spec.name} has no backup")
        return self.volume.backup

    @property
    def name(self) -> str:
        """Return the name of the Job, of the snapshot and of the claim made from it."""
        return backup_job_name(self.spec.name)

    @property
    def subject(self) -> str:
        """Return what a Job for it backs up."""
        return f"version {self.version}, {self.weights}"

    @property
    def place(self) -> str:
        """Return what the backup says of where its files came from."""
        return f"claim {self.spec.namespace}/{self.volume.claim}, {self.folder}"

    @property
    def folder(self) -> str:
        """Return the version's folder on the claim."""
        parts = (self.volume.sub_path, self.spec.name, self.weights, FILES_FOLDER)
        return "/".join(part for part in parts if part)


def backup_job(source: VolumeSource, *, image: str) -> Object:
    """Return the Job.

    Args:
        source: what it backs up.
        image: with Slipway, `HOST/REPOSITORY@sha256:…`.
    """
    spec = source.spec
    claim = source.name if source.backup.snapshot_class else source.volume.claim
    arguments = (
        *("backup", "take", FOLDER, "--model", spec.model, "--version", source.version),
        *("--sum", source.weights, "--from", source.place, "--json"),
    )
    container = {
        **step_container("take", image, arguments, source.backup.secret),
        "volumeMounts": [
            {"name": _VOLUME, "mountPath": FOLDER, "subPath": source.folder, "readOnly": True}
        ],
    }
    labels = {**common_labels(spec.name), ROLE_LABEL: "backup"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(
            source.name,
            spec.namespace,
            labels=labels,
            annotations={SUBJECT_ANNOTATION: source.subject},
        ),
        "spec": job_spec(labels, containers=[container], claim=claim, account=MODEL_ACCOUNT),
    }


def job_spec(
    labels: Mapping[str, str],
    *,
    containers: Sequence[Object],
    claim: str,
    account: str,
    before: Sequence[Object] = (),
) -> Object:
    """Return the spec of a Job that works on a claim, which it can only read.

    Args:
        labels: of its pod.
        containers: of its pod.
        claim: mounted as `models`.
        account: that its pod runs as, without a token.
        before: containers that must have succeeded, one after the other.
    """
    pod: Object = {
        "serviceAccountName": account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": list(containers),
        "volumes": [
            {
                "name": _VOLUME,
                "persistentVolumeClaim": {"claimName": claim, "readOnly": True},
            }
        ],
    }
    if before:
        pod["initContainers"] = list(before)
    useless = {"operator": "In", "values": list(_USELESS_TO_REPEAT)}
    return {
        "backoffLimit": _REPEATS,
        "activeDeadlineSeconds": _DEADLINE_S,
        "ttlSecondsAfterFinished": _TTL_S,
        "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": useless}]},
        "template": {"metadata": {"labels": dict(labels)}, "spec": pod},
    }


def step_container(name: str, image: str, arguments: Sequence[str], secret: str) -> Object:
    """Return a container that runs one command of Slipway with the keys of a Secret."""
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": list(arguments),
        "envFrom": [{"secretRef": {"name": secret}}],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": {
            "requests": {"cpu": "500m", "memory": "256Mi"},
            "limits": {"memory": "512Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def volume_snapshot(source: VolumeSource, *, job_uid: str) -> Object:
    """Return the snapshot of the claim, which goes with the Job."""
    return {
        "apiVersion": f"{SNAPSHOT_GROUP}/v1",
        "kind": "VolumeSnapshot",
        "metadata": _of_job(source, job_uid),
        "spec": {
            "volumeSnapshotClassName": source.backup.snapshot_class,
            "source": {"persistentVolumeClaimName": source.volume.claim},
        },
    }


def snapshot_claim(
    source: VolumeSource, *, job_uid: str, storage_class: str | None, size: str
) -> Object:
    """Return the claim that is made from the snapshot, which goes with the Job.

    Args:
        source: what is backed up.
        job_uid: of the Job.
        storage_class: of the claim that the snapshot was taken of; None is the cluster's default.
        size: as Kubernetes writes it, at least the snapshot's.
    """
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": size}},
        "dataSource": {
            "apiGroup": SNAPSHOT_GROUP,
            "kind": "VolumeSnapshot",
            "name": source.name,
        },
    }
    if storage_class is not None:
        spec["storageClassName"] = storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _of_job(source, job_uid),
        "spec": spec,
    }


def _of_job(source: VolumeSource, job_uid: str) -> Object:
    labels = {**common_labels(source.spec.name), ROLE_LABEL: "backup"}
    found = metadata(source.name, source.spec.namespace, labels=labels)
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": source.name, "uid": job_uid}
    return {**found, "ownerReferences": [owner]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Nightly:
    """A nightly backup of folders on a claim, for clusters without Prefect.

    Args:
        name: of the CronJob and of its service account.
        namespace: of the claim.
        claim: that holds the models.
        folders: model → folder on the claim.
        in_use: versions that are never removed, `MODEL=VERSION`.
        image: with Slipway, whose entrypoint is `slipway`.
        secret: whose keys become variables (`SLIPWAY_BACKUP_REPOSITORY`, `AWS_…`).
        schedule: as cron writes it.
        time_zone: of the schedule, for example `Europe/Vienna`.
    """

    name: str
    namespace: str
    claim: str
    folders: Mapping[str, str]
    in_use: Sequence[str]
    image: str
    secret: str
    schedule: str
    time_zone: str


def nightly_objects(nightly: Nightly) -> tuple[Object, ...]:
    """Return an account without rights and the CronJob that runs as it: take, read back, let go."""
    labels = {MANAGED_BY_LABEL: "slipway", ROLE_LABEL: "backup"}
    meta = metadata(nightly.name, nightly.namespace, labels=labels)
    uses = [word for use in nightly.in_use for word in ("--in-use", use)]
    steps = [
        *(
            (f"take-{place}", ("take", f"{FOLDER}/{folder}".rstrip("/"), "--model", model))
            for place, (model, folder) in enumerate(nightly.folders.items(), start=1)
        ),
        ("verify", ("verify", "--nightly")),
        ("prune", ("prune", "--apply", *uses)),
    ]
    *before, last = [
        {
            **step_container(name, nightly.image, ("backup", *words), nightly.secret),
            "volumeMounts": [{"name": _VOLUME, "mountPath": FOLDER, "readOnly": True}],
        }
        for name, words in steps
    ]
    job = job_spec(
        labels, containers=[last], claim=nightly.claim, account=nightly.name, before=before
    )
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": meta,
        "automountServiceAccountToken": False,
    }
    cron = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": meta,
        "spec": {
            "schedule": nightly.schedule,
            "timeZone": nightly.time_zone,
            # Two at once would do no harm, and no good.
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": _STARTING_DEADLINE_S,
            "jobTemplate": {"metadata": {"labels": labels}, "spec": job},
        },
    }
    return account, cron
