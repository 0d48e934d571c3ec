"""A Job on a volume reads one version of it, once, and tells nobody its keys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from slipway.cli import application
from slipway.core.errors import InputError
from slipway.core.service import VolumeBackup, WeightsVolume
from slipway.manifests.backups import VolumeSource, backup_job, snapshot_claim
from tests.examples import IMAGE, service, service_backed_up_on_its_volume

WEIGHTS = "ab" * 32


def source(**volume: Any) -> VolumeSource:
    whole = WeightsVolume(claim="models", **volume)
    spec = replace(service_backed_up_on_its_volume(), volume=whole)
    return VolumeSource(spec=spec, version="3", weights=WEIGHTS)


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["template"]["spec"]
    return found


def test_job_mounts_the_folder_of_the_version_read_only_and_has_no_token() -> None:
    backup = VolumeBackup(secret="keys")
    job = backup_job(source(sub_path="team/a", backup=backup), image=IMAGE)
    pod = pod_of(job)
    (container,) = pod["containers"]
    (mount,) = container["volumeMounts"]
    assert mount["subPath"] == f"team/a/chat/{WEIGHTS}/files"
    assert mount["readOnly"] is True
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "models", "readOnly": True}
    assert pod["automountServiceAccountToken"] is False
    assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]
    words = container["args"]
    assert words[words.index("--sum") + 1] == WEIGHTS
    assert words[words.index("--version") + 1] == "3"
    assert job["spec"]["activeDeadlineSeconds"] < 86_400  # when its run would count as ended


def test_job_reads_the_claim_of_the_snapshot_where_there_is_a_class() -> None:
    backup = VolumeBackup(secret="keys", snapshot_class="cut")
    cut = source(backup=backup)
    volume = pod_of(backup_job(cut, image=IMAGE))["volumes"][0]
    assert volume["persistentVolumeClaim"]["claimName"] == "chat-backup"
    claim = snapshot_claim(cut, job_uid="u", storage_class=None, size="1Gi")
    assert "storageClassName" not in claim["spec"]


def test_refused_for_good_is_not_repeated_and_passing_failures_are() -> None:
    job = backup_job(source(backup=VolumeBackup(secret="keys")), image=IMAGE)
    (rule,) = job["spec"]["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert {3, 6} <= set(rule["onExitCodes"]["values"])
    assert 4 not in rule["onExitCodes"]["values"]
    assert job["spec"]["backoffLimit"] > 0


def test_service_without_a_volume_or_a_backup_makes_no_job() -> None:
    with pytest.raises(ValueError, match="no backup"):
        backup_job(source(), image=IMAGE)
    without = VolumeSource(spec=service(), version="3", weights=WEIGHTS)
    with pytest.raises(ValueError, match="no volume"):
        backup_job(without, image=IMAGE)


def printed(*words: str) -> list[dict[str, Any]]:
    fixed = ("--namespace", "ai", "--claim", "models", "--secret", "keys", "--image", IMAGE)
    result = CliRunner().invoke(application(), ["backup", "cron", *fixed, *words])
    if result.exception is not None:
        raise result.exception
    return list(yaml.safe_load_all(result.output))


def test_cron_job_takes_each_folder_reads_back_and_prunes_in_this_order() -> None:
    account, cron = printed(
        *("--model", "chat=team/chat", "--model", "code=", "--in-use", "chat=3"),
        *("--at", "5 1 * * *", "--zone", "Europe/Vienna"),
    )
    assert account["automountServiceAccountToken"] is False
    assert cron["spec"]["schedule"] == "5 1 * * *"
    assert cron["spec"]["timeZone"] == "Europe/Vienna"
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    pod = pod_of(cron["spec"]["jobTemplate"])
    assert pod["serviceAccountName"] == account["metadata"]["name"]
    steps = [container["args"] for container in (*pod["initContainers"], *pod["containers"])]
    assert steps == [
        ["backup", "take", "/models/team/chat", "--model", "chat"],
        ["backup", "take", "/models", "--model", "code"],
        ["backup", "verify", "--nightly"],
        ["backup", "prune", "--apply", "--in-use", "chat=3"],
    ]


@pytest.mark.parametrize("model", ["chat", "=team", "chat=../other", "chat=/models"])
def test_folder_that_is_none_on_the_claim_is_refused(model: str) -> None:
    with pytest.raises(InputError) as caught:
        printed("--model", model)
    assert caught.value.code == "arguments-wrong"
