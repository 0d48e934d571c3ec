"""Versions on a volume are backed up where they lie, by a Job with keys of its own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from slipway.manifests.names import BACKUP_ACCOUNT, RELEASE_ACCOUNT, backup_job_name
from slipway.sandbox.cluster import SERVING_NAMESPACE as NAMESPACE
from slipway.sandbox.parts import s3
from slipway.sandbox.volumes import BACKUP_SECRET, CLAIM, READER_SECRET
from tests.e2e.orders import live_version
from tests.e2e.support import Sandbox, World, said
from tests.e2e.test_release_weights_pvc import shelf

pytestmark = pytest.mark.drawn_file("long")

SERVICE = "shelved"
VOLUME = {
    "claim": CLAIM,
    "secret": READER_SECRET,
    "artifacts": f"s3://{s3.MODELS_BUCKET}",
    "backup": {"secret": BACKUP_SECRET},
}


@pytest.fixture(scope="module")
def world(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(sandbox, tmp_path_factory.mktemp("backup-jobs"))
    world.given_service(SERVICE, weights="pvc", volume=VOLUME)
    released = world.release(SERVICE, world.given_version(SERVICE))
    assert released.returncode == 0, said(released)
    world.context = BACKUP_ACCOUNT
    return world


def shown(world: World, *words: str) -> dict[str, Any]:
    found = world.sandbox.kubectl("get", "-n", NAMESPACE, "-o", "json", *words)
    assert found.returncode == 0, said(found)
    document: dict[str, Any] = json.loads(found.stdout)
    return document


def test_version_is_read_from_the_volume_by_a_job_that_leaves_nothing(world: World) -> None:
    done = world.cli("backup", "nightly", SERVICE)
    assert done.returncode == 0, said(done)
    version = live_version(world, SERVICE)
    listed = world.cli("backup", "show", SERVICE)
    assert f"from claim {NAMESPACE}/{CLAIM}, {SERVICE}/" in said(listed)
    assert f"version {version}" in said(listed)
    again = world.cli("backup", "nightly", SERVICE)
    assert again.returncode == 0, said(again)
    assert "100.0% of it was there" in said(again)
    assert [
        item["metadata"]["name"]
        for item in shown(world, "jobs,pods")["items"]
        if item["metadata"]["name"].startswith(backup_job_name(SERVICE))
        and "deletionTimestamp" not in item["metadata"]
    ] == []


def test_file_changed_on_the_volume_is_no_backup_of_the_version(world: World) -> None:
    (folder,) = [path for path in shelf(world, SERVICE).iterdir() if len(path.name) == 64]
    file = next(path for path in sorted((folder / "files").iterdir()) if path.is_file())
    good = file.read_bytes()
    file.chmod(0o644)
    file.write_bytes(good + b" ")
    try:
        refused = world.cli("backup", "nightly", SERVICE)
    finally:
        file.write_bytes(good)
    assert refused.returncode == 6, said(refused)
    assert "backup-incomplete" in said(refused)
    assert "source-differs" in said(refused)


@pytest.mark.parametrize("account", [BACKUP_ACCOUNT, RELEASE_ACCOUNT])
def test_flows_account_may_not_read_the_keys_of_its_job(world: World, account: str) -> None:
    asked = ("auth", "can-i", "get", f"secrets/{BACKUP_SECRET}", "-n", NAMESPACE)
    may = world.sandbox.kubectl("--context", account, *asked)
    assert may.stdout.strip() == "no"
