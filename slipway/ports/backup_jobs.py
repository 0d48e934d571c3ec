"""Jobs that back up what lies on a volume of the cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from slipway.ports.workloads import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLook:
    """A Job as it is now.

    Args:
        uid: of it.
        subject: what it backs up.
        succeeded: None while it is under way.
        said: why it failed, in the cluster's words; or what its pod waits for.
    """

    uid: str
    subject: str
    succeeded: bool | None
    said: str = ""


class BackupJobs(Protocol):
    """Jobs, the snapshots they read, and what they said. Every verb may be repeated."""

    def start(self, job: Manifest) -> JobLook:
        """Make a Job unless one of its name is there; return what is there."""

    def look(self, namespace: str, name: str) -> JobLook | None:
        """Return a Job; None when there is none."""

    def output(self, namespace: str, name: str) -> str:
        """Return what the Job's newest pod wrote, "" when it has none."""

    def remove(self, namespace: str, name: str, uid: str) -> None:
        """Remove a Job, its pods and all that belongs to it; one that is gone is no error."""

    def make(self, manifest: Manifest) -> None:
        """Make a snapshot or a claim unless it is there.

        Raises:
            TransientError: `job-leftover`, it is there and belongs to a Job of another time.
            PermanentError: refused; `not-found` where the cluster has no such kind.
        """

    def read(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """Return a snapshot or a claim; None when there is none."""
