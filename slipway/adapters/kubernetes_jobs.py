"""The BackupJobs port on the API server."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from slipway.adapters.kubernetes_api import FIELD_MANAGER, KubernetesApi, object_path
from slipway.core.errors import ConflictError, PermanentError, TransientError
from slipway.manifests.backups import SUBJECT_ANNOTATION
from slipway.ports.backup_jobs import JobLook
from slipway.ports.workloads import Manifest

_LOG_BYTES = 64 << 10


class KubernetesBackupJobs:
    """Jobs of one cluster; see `slipway.ports.backup_jobs.BackupJobs`."""

    def __init__(self, api: KubernetesApi) -> None:
        self._api = api

    def start(self, job: Manifest) -> JobLook:
        """Make a Job unless one is there; see `BackupJobs`."""
        meta = job["metadata"]
        with suppress(ConflictError):  # one of its name is there: the caller looks whose it is
            self._create(job)
        found = self.look(meta["namespace"], meta["name"])
        if found is None:
            raise TransientError(
                f"Job {meta['name']} was removed as soon as it was made",
                code="job-leftover",
                hint="try again: another run has just ended",
            )
        return found

    def look(self, namespace: str, name: str) -> JobLook | None:
        """Return a Job; see `BackupJobs`."""
        job = self._api.get(object_path("Job", namespace, name))
        if job is None:
            return None
        status, meta = job.get("status", {}), job["metadata"]
        ended = [
            item
            for item in status.get("conditions", ())
            if item["type"] in {"Complete", "Failed"} and item["status"] == "True"
        ]
        return JobLook(
            uid=meta["uid"],
            subject=meta.get("annotations", {}).get(SUBJECT_ANNOTATION, ""),
            succeeded=ended[0]["type"] == "Complete" if ended else None,
            said=str(ended[0].get("message", "")) if ended else self._waits_for(namespace, name),
        )

    def output(self, namespace: str, name: str) -> str:
        """Return what the newest pod wrote; see `BackupJobs`."""
        pods = self._pods(namespace, name)
        if not pods:
            return ""
        newest = max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        path = f"{object_path('Pod', namespace, newest['metadata']['name'])}/log"
        return self._api.text(path, {"limitBytes": str(_LOG_BYTES)})

    def remove(self, namespace: str, name: str, uid: str) -> None:
        """Remove a Job with what belongs to it; see `BackupJobs`."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        try:
            self._api.call("DELETE", object_path("Job", namespace, name), body=body)
        except PermanentError as error:
            if error.code != "not-found":
                raise
        except ConflictError:
            return  # it is another one by now

    def make(self, manifest: Manifest) -> None:
        """Make a snapshot or a claim; see `BackupJobs`."""
        meta = manifest["metadata"]
        try:
            self._create(manifest)
        except ConflictError as error:
            found = self.read(manifest["kind"], meta["namespace"], meta["name"])
            owners = [] if found is None else found["metadata"].get("ownerReferences", [])
            ours = {owner["uid"] for owner in meta["ownerReferences"]}
            if not ours & {owner["uid"] for owner in owners}:
                raise TransientError(
                    f"{manifest['kind']} {meta['name']} of a Job before is still there",
                    code="job-leftover",
                    hint="the cluster removes it after its Job; if it stays, remove it by hand",
                ) from error

    def read(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """Return a snapshot or a claim; see `BackupJobs`."""
        return self._api.get(object_path(kind, namespace, name))

    def _create(self, manifest: Manifest) -> None:
        where = object_path(manifest["kind"], manifest["metadata"]["namespace"])
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        self._api.call("POST", where, body=dict(manifest), query=query)

    def _pods(self, namespace: str, name: str) -> list[dict[str, Any]]:
        query = {"labelSelector": f"batch.kubernetes.io/job-name={name}"}
        found = self._api.get(object_path("Pod", namespace), query) or {}
        return list(found.get("items") or ())

    def _waits_for(self, namespace: str, name: str) -> str:
        """Return what keeps the Job's pod from running, in the cluster's words."""
        for pod in self._pods(namespace, name):
            status = pod.get("status", {})
            for item in status.get("conditions", ()):
                if item["type"] == "PodScheduled" and item["status"] == "False":
                    return str(item.get("message", ""))
            for item in status.get("containerStatuses", ()):
                waiting = item.get("state", {}).get("waiting", {})
                if waiting.get("message"):
                    return f"{waiting.get('reason')}: {waiting['message']}"
        return ""
