"""The runbooks of backups on the sandbox: taken from the registry, healed, restored, asked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from slipway.backup.repository import Repository
from slipway.bootstrap.backups import open_backups
from slipway.core.backup.sums import sha256_sum
from slipway.manifests.names import BACKUP_ACCOUNT
from slipway.settings import backup_settings
from tests.e2e.orders import live_version
from tests.e2e.support import Sandbox, World, said

pytestmark = pytest.mark.drawn_file("long")

SERVICE = "kept"


@pytest.fixture(scope="module")
def world(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(sandbox, tmp_path_factory.mktemp("backup-flows"))
    world.environment["SLIPWAY_BACKUP_REPOSITORY"] = f"s3://slipway-backups/{world.folder.name}"
    world.given_service(SERVICE)
    for behaviour in ({}, {"gap_ms": 3}):
        released = world.release(SERVICE, world.given_version(SERVICE, **behaviour))
        assert released.returncode == 0, said(released)
    world.context = BACKUP_ACCOUNT
    return world


def repository(world: World) -> Repository:
    os.environ.update({k: v for k, v in world.environment.items() if k.startswith("AWS_")})
    return open_backups(backup_settings(environment=world.environment)).repository


def chunk_of_live_version(world: World) -> str:
    found = repository(world)
    name = found.manifests(SERVICE)[-1]
    manifest = found.load(name)
    assert manifest.origin.registry_version == live_version(world, SERVICE)
    return str(manifest.key_of(manifest.chunks[0]))


def test_what_serves_and_may_serve_again_is_backed_up_and_verified(world: World) -> None:
    done = world.cli("backup", "nightly")
    assert done.returncode == 0, said(done)
    assert "100.0% is verified" in said(done)
    versions = {
        repository(world).load(n).origin.registry_version for n in repository(world).manifests()
    }
    assert versions == {live_version(world, SERVICE), str(int(live_version(world, SERVICE)) - 1)}
    again = world.cli("backup", "nightly", SERVICE)
    assert again.returncode == 0, said(again)
    assert "100.0% of it was there" in said(again)


def test_drill_restores_and_the_server_answers_as_in_the_release(world: World) -> None:
    done = world.cli("backup", "drill", SERVICE)
    assert done.returncode == 0, said(done)
    assert "3 of 3 answers as in the release's own test" in said(done)
    drill = repository(world).drills()[-1]
    assert drill.passed
    assert drill.image_as_released
    # Nobody waits for its end: it may still be on its way.
    gone = ("wait", "--for=delete", "--timeout=60s", "-n", "serving", f"pod/{SERVICE}-drill")
    assert world.sandbox.kubectl(*gone).returncode == 0


def test_broken_chunk_is_healed_from_the_registry(world: World) -> None:
    key, store = chunk_of_live_version(world), repository(world).store
    good = store.get(key)
    store.put(key, good[:-1] + b"?", checksum=sha256_sum(good[:-1] + b"?"))
    done = world.cli("backup", "nightly", "--everything")
    assert done.returncode == 0, said(done)
    assert "healed: chunk" in said(done)
    assert store.get(key) == good


def test_chunk_that_is_known_to_be_broken_is_sent_anew(world: World) -> None:
    key, store = chunk_of_live_version(world), repository(world).store
    good = store.get(key)
    store.delete([key])
    broken = world.cli("backup", "verify")
    assert broken.returncode == 6, said(broken)
    assert "backup-broken" in said(broken)
    done = world.cli("backup", "nightly")
    assert done.returncode == 0, said(done)
    assert store.get(key) == good
    assert world.cli("backup", "verify").returncode == 0


def test_damaged_manifest_comes_back_from_a_replica(world: World, tmp_path: Path) -> None:
    world.environment["SLIPWAY_BACKUP_REPLICAS"] = place = str(tmp_path / "replica")
    try:
        assert world.cli("backup", "init", "--repository", place).returncode == 0
        copied = world.cli("backup", "nightly")
        assert copied.returncode == 0, said(copied)
        store, name = repository(world).store, repository(world).manifests()[-1]
        store.put(name.key, b"?", checksum=sha256_sum(b"?"))
        done = world.cli("backup", "nightly")
        assert done.returncode == 0, said(done)
        assert f"back: {name}, as " in said(done)
        assert world.cli("backup", "verify").returncode == 0
    finally:
        del world.environment["SLIPWAY_BACKUP_REPLICAS"]


def test_drill_on_a_backup_that_cannot_be_read_fails_and_says_so(world: World) -> None:
    key, store = chunk_of_live_version(world), repository(world).store
    good = store.get(key)
    store.delete([key])
    failed = world.cli("backup", "drill", SERVICE)
    assert failed.returncode == 6, said(failed)
    assert "chunk-missing" in said(failed)
    assert not repository(world).drills()[-1].passed
    store.put(key, good, checksum=sha256_sum(good))


def test_model_that_is_in_use_and_not_backed_up_is_told(world: World, tmp_path: Path) -> None:
    environment = {**world.environment}
    world.environment["SLIPWAY_BACKUP_REPOSITORY"] = str(tmp_path / "empty")
    try:
        missing = world.cli("backup", "drill", SERVICE)
        assert missing.returncode == 3, said(missing)
        assert "version-unknown" in said(missing)
    finally:
        world.environment.update(environment)
