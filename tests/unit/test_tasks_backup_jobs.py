"""A Job backs up a volume: one of a run, nothing left behind, every way to fail has its name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from slipway.bootstrap.releases import Ports
from slipway.core.errors import PermanentError, TransientError
from slipway.core.service import VolumeBackup
from slipway.manifests.backups import SUBJECT_ANNOTATION, VolumeSource, backup_job
from slipway.ports.backup_jobs import JobLook
from tasks import backup_jobs
from tasks.backup_jobs import back_up_volume
from tests.examples import DIGEST, service_backed_up_on_its_volume

SAID = json.dumps({"backup": "chat@1", "size_bytes": 7, "sent_bytes": 3})
JOB, CLAIM, SNAPSHOT = "Job", "PersistentVolumeClaim", "VolumeSnapshot"


class _Killed(BaseException):
    pass


def _fails(looks: int) -> bool | None:
    return False if looks > 1 else None


@dataclass
class Cluster:
    """A `BackupJobs` that runs nothing: Jobs end as they are told to.

    Args:
        ends: what becomes of a Job when it is looked at, by how often it was; None: under way.
        said: what its pod writes.
        dies_after: kind whose making is the last thing that the caller does.
        snapshot: status of a snapshot, by how often it was read.
    """

    ends: Callable[[int], bool | None] = lambda looks: looks > 1 or None
    said: str = f"a warning\n{SAID}\n"
    dies_after: str = ""
    snapshot: Callable[[int], Mapping[str, Any]] = lambda _: {"readyToUse": True}
    there: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    looks: int = 0
    reads: int = 0
    numbers: int = 0

    def start(self, job: Any) -> JobLook:
        name = job["metadata"]["name"]
        if (JOB, name) not in self.there:
            self.numbers += 1
            self.there[JOB, name] = {**job, "uid": f"uid-{self.numbers}"}
            self.log.append(f"make {JOB}")
            self._dies(JOB)
        found = self.look("serving", name)
        assert found is not None
        return found

    def look(self, _: str, name: str) -> JobLook | None:
        job = self.there.get((JOB, name))
        if job is None:
            return None
        self.looks += 1
        subject = job["metadata"]["annotations"][SUBJECT_ANNOTATION]
        ended = job.get("ended", self.ends(self.looks))
        return JobLook(uid=job["uid"], subject=subject, succeeded=ended, said="waits for its claim")

    def output(self, _: str, name: str) -> str:
        return self.said

    def remove(self, _: str, name: str, uid: str) -> None:
        if self.dies_after:
            return  # who is dead removes nothing
        if self.there.get((JOB, name), {}).get("uid") == uid:
            del self.there[JOB, name]
            self.log.append(f"remove {JOB}")

    def make(self, manifest: Any) -> None:
        kind, meta = manifest["kind"], manifest["metadata"]
        former = self.there.get((kind, meta["name"]))
        if former is not None and former["metadata"]["ownerReferences"] != meta["ownerReferences"]:
            del self.there[kind, meta["name"]]  # it is gone when somebody looks again
            raise TransientError("still there", code="job-leftover", hint="")
        self.there[kind, meta["name"]] = manifest
        self.log.append(f"make {kind}")
        self._dies(kind)

    def _dies(self, kind: str) -> None:
        if kind == self.dies_after:
            raise _Killed

    def read(self, kind: str, _: str, name: str) -> Any:
        found = self.there.get((kind, name))
        if found is None or kind != SNAPSHOT:
            return found
        self.reads += 1
        return {**found, "status": self.snapshot(self.reads)}


def source(*, snapshot_class: str = "", version: str = "3") -> VolumeSource:
    spec = service_backed_up_on_its_volume()
    assert spec.volume is not None
    backup = VolumeBackup(secret="keys", snapshot_class=snapshot_class)
    spec = replace(spec, volume=replace(spec.volume, backup=backup))
    return VolumeSource(spec=spec, version=version, weights="ab" * 32)


def with_claim(cluster: Cluster) -> Cluster:
    spec = {"storageClassName": "fast", "resources": {"requests": {"storage": "10Gi"}}}
    cluster.there[CLAIM, "models"] = {"spec": spec}
    return cluster


class Images:
    def resolve(self, reference: str) -> SimpleNamespace:
        return SimpleNamespace(reference=f"registry.example.com/slipway/backup@{DIGEST}")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.waiting.time.sleep", lambda _: None)
    monkeypatch.setattr(backup_jobs, "tell", lambda _: None)


def back_up(cluster: Cluster, what: VolumeSource) -> dict[str, Any]:
    return back_up_volume(cast(Ports, SimpleNamespace(images=Images())), cluster, what)


def test_job_is_waited_for_and_its_words_are_returned() -> None:
    cluster = Cluster(ends=lambda looks: True if looks > 3 else None)
    done = back_up(cluster, source())
    assert (done["backup"], done["size_bytes"], done["sent_bytes"]) == ("chat@1", 7, 3)
    assert cluster.log == ["make Job", "remove Job"]


def test_snapshot_is_read_where_there_is_a_class_and_all_belongs_to_the_job() -> None:
    def ready(reads: int) -> dict[str, Any]:
        return {"readyToUse": reads > 2, "restoreSize": "12Gi"}

    cluster = with_claim(Cluster(snapshot=ready))
    back_up(cluster, source(snapshot_class="cut"))
    assert cluster.log == ["make Job", "make VolumeSnapshot", f"make {CLAIM}", "remove Job"]
    claim = cluster.there[CLAIM, "chat-backup"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "12Gi"
    assert claim["spec"]["storageClassName"] == "fast"
    for made in (claim, cluster.there[SNAPSHOT, "chat-backup"]):
        assert made["metadata"]["ownerReferences"][0]["uid"] == "uid-1"


def test_what_a_job_before_left_is_waited_for() -> None:
    cluster = with_claim(Cluster())
    old = {"metadata": {"ownerReferences": [{"uid": "of-yesterday"}]}}
    cluster.there[SNAPSHOT, "chat-backup"] = old
    cluster.there[CLAIM, "chat-backup"] = old
    back_up(cluster, source(snapshot_class="cut"))
    assert cluster.there[CLAIM, "chat-backup"] is not old


@pytest.mark.parametrize(
    ("status", "claim", "said"),
    [
        ({"error": {"message": "no room"}}, True, "no room"),
        ({"error": {}}, True, "does not say why"),
        ({}, False, "there is no claim models"),
    ],
)
def test_snapshot_that_fails_is_named_and_nothing_stays(
    status: dict[str, Any], claim: bool, said: str
) -> None:
    cluster = Cluster(snapshot=lambda _: status)
    if claim:
        with_claim(cluster)
    with pytest.raises(PermanentError, match=said) as caught:
        back_up(cluster, source(snapshot_class="cut"))
    assert caught.value.code == "snapshot-failed"
    assert (JOB, "chat-backup") not in cluster.there


def test_job_that_fails_says_why_in_its_own_words() -> None:
    cluster = Cluster(ends=_fails, said="slipway: no bucket [bucket-missing]")
    with pytest.raises(PermanentError, match="bucket-missing") as caught:
        back_up(cluster, source())
    assert caught.value.code == "backup-job-failed"
    assert cluster.log[-1] == "remove Job"
    silent = Cluster(ends=_fails, said="")
    with pytest.raises(PermanentError, match="waits for its claim"):
        back_up(silent, source())


@pytest.mark.parametrize("said", ["", "no json", "[]", '{"backup": "x"}'])
def test_job_whose_words_are_lost_is_run_again(said: str) -> None:
    with pytest.raises(TransientError) as caught:
        back_up(Cluster(said=said), source())
    assert caught.value.code == "backup-job-unread"


def test_job_that_a_killed_run_left_is_gone_on_with_where_it_stopped() -> None:
    """It had made the Job, and neither snapshot nor claim: the Job waited for them in vain."""
    what = source(snapshot_class="cut")
    cluster = with_claim(Cluster(ends=lambda looks: True if looks > 3 else None))
    cluster.start(backup_job(what, image="image"))
    assert back_up(cluster, what)["backup"] == "chat@1"
    assert cluster.log == ["make Job", "make VolumeSnapshot", f"make {CLAIM}", "remove Job"]
    assert cluster.there[CLAIM, "chat-backup"]["metadata"]["ownerReferences"][0]["uid"] == "uid-1"


@pytest.mark.parametrize("kind", [JOB, SNAPSHOT, CLAIM])
def test_run_killed_after_any_write_is_finished_by_the_next(kind: str) -> None:
    what = source(snapshot_class="cut")
    cluster = with_claim(Cluster(ends=lambda looks: True if looks > 6 else None, dies_after=kind))
    with pytest.raises(_Killed):
        back_up(cluster, what)
    assert (JOB, "chat-backup") in cluster.there
    cluster.dies_after = ""
    assert back_up(cluster, what)["backup"] == "chat@1"
    assert (JOB, "chat-backup") not in cluster.there
    assert cluster.log.count("make Job") == 1


def test_job_of_another_version_and_one_that_has_ended_make_place() -> None:
    cluster = Cluster(ends=lambda looks: True if looks > 3 else None)
    cluster.start(backup_job(source(version="2"), image="image"))
    assert back_up(cluster, source())["backup"] == "chat@1"
    assert cluster.log == ["make Job", "remove Job", "make Job", "remove Job"]
    cluster.log.clear()
    cluster.start(backup_job(source(), image="image"))
    cluster.there[JOB, "chat-backup"]["ended"] = True
    back_up(cluster, source())
    assert cluster.log == ["make Job", "remove Job", "make Job", "remove Job"]


def test_job_that_somebody_removes_is_tried_again() -> None:
    cluster = Cluster()

    def removed(looks: int) -> bool | None:
        if looks == 2:
            cluster.there.clear()
        return None

    cluster.ends = removed
    with pytest.raises(TransientError, match="removed by somebody else") as caught:
        back_up(cluster, source())
    assert caught.value.code == "backup-job-replaced"
