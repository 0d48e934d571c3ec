"""`slipway backup` on a folder: what people type, and what they read."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from slipway.cli import application, exit_codes
from slipway.core.errors import SlipwayError
from slipway.core.weights import digest_of_files
from slipway.settings import backup_settings
from tests.unit.backup_house import BYTES, TENSORS, files
from tests.unit.model_files import safetensors


class Desk:
    """A shell with a repository in a folder, and a model beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / "model"
        self.model.mkdir()
        (self.model / "config.json").write_text("{}")
        self.write(TENSORS)

    def write(self, tensors: dict[str, bytes]) -> None:
        (self.model / "w.safetensors").write_bytes(safetensors(tensors))

    def run(self, *words: str) -> str:
        result = CliRunner().invoke(application(), ["backup", *words])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    def fails(self, *words: str) -> SlipwayError:
        with pytest.raises(SlipwayError) as caught:
            self.run(*words)
        return caught.value

    def take(self) -> str:
        return self.run("take", str(self.model), "--model", "chat").split(":")[0]

    def chunks(self) -> list[Path]:
        return sorted(path for path in (self.folder / "repo/chunks").rglob("*") if path.is_file())

    def manifests(self) -> list[Path]:
        return sorted((self.folder / "repo/manifests").rglob("*.json"))


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("SLIPWAY_BACKUP_REPOSITORY", str(tmp_path / "repo"))
    monkeypatch.delenv("SLIPWAY_BACKUP_KEY_FILE", raising=False)
    desk = Desk(tmp_path)
    assert "runs may work side by side" in desk.run("init")
    return desk


def test_backup_is_taken_listed_restored_and_verified(desk: Desk) -> None:
    name = desk.take()
    assert "0 B sent in 0 chunks" in desk.run("take", str(desk.model), "--model", "chat")
    listed = desk.run("list")
    assert name in listed
    assert "never" in listed
    assert "100.0% of 2 backups is verified" in desk.run("verify")
    assert "never" not in desk.run("list", "chat")
    assert "w.safetensors" in desk.run("show", "chat")
    assert "2 of them verified" in desk.run("stats")
    target = desk.folder / "restored"
    assert "each byte checked" in desk.run("restore", name, str(target))
    assert files(target) == files(desk.model)
    one = desk.folder / "one"
    desk.run("restore", "chat", str(one), "--file", "config.json")
    assert files(one) == {"config.json": b"{}"}


def test_chunks_may_be_named_by_blake3(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = ("--repository", str(tmp_path / "fast"))
    assert "named by blake3" in desk.run("init", "--hash", "blake3", *place)
    assert "named by blake3" in desk.run("init", *place)
    desk.run("take", str(desk.model), "--model", "chat", *place)
    assert "0 B sent" in desk.run("take", str(desk.model), "--model", "chat", *place)
    assert "100.0% of 2 backups is verified" in desk.run("verify", *place)
    target = tmp_path / "restored"
    desk.run("restore", "chat", str(target), *place)
    assert files(target) == files(desk.model)
    stored = {path.parent.parent.name for path in (tmp_path / "fast/chunks").rglob("*.0")}
    assert stored == {"blake3"}

    assert desk.fails("init", "--hash", "sha256", *place).code == "hash-unfit"
    assert desk.fails("init", "--hash", "blake3").code == "hash-unfit"
    (tmp_path / "key").write_bytes(b"k" * 32)
    monkeypatch.setenv("SLIPWAY_BACKUP_KEY_FILE", str(tmp_path / "key"))
    sealed = ("--repository", str(tmp_path / "sealed"))
    assert desk.fails("init", "--hash", "blake3", *sealed).code == "hash-unfit"
    assert not (tmp_path / "sealed").exists()
    assert "encrypted" in desk.run("init", *sealed)


def test_files_that_are_not_those_expected_are_no_backup(desk: Desk) -> None:
    sums = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in desk.model.iterdir()
    }
    expected = digest_of_files(sorted(sums.items()))
    words = ("take", str(desk.model), "--model", "chat", "--from", "claim ai/models", "--json")
    done = json.loads(desk.run(*words, "--sum", expected))
    assert done["size_bytes"] == sum(path.stat().st_size for path in desk.model.iterdir())
    shown = desk.run("show", "chat")
    assert "from claim ai/models" in shown
    assert sums["config.json"][:16] in shown
    (desk.model / "config.json").write_text("[]")
    assert desk.fails(*words, "--sum", expected).code == "source-differs"
    assert desk.run("list").count("chat@") == 1


def test_older_version_here_saves_the_download(desk: Desk) -> None:
    before = desk.take()
    old = desk.model.rename(desk.folder / "old")
    desk.model.mkdir()
    desk.write({**TENSORS, "blk.1.w": BYTES[4_000:]})
    after = desk.take()
    shown = desk.run("diff", before, after)
    assert "changed    blk.1.w" in shown
    assert "3 of 4 tensors are the same" in shown
    target = desk.folder / "restored"
    said = desk.run("restore", after, str(target), "--local", f"{old}={before}")
    assert files(target) == files(desk.model)
    assert "0 B copied" not in said
    wrong = desk.fails("restore", after, str(target), "--local", "x")
    assert wrong.code == "arguments-wrong"


def test_damage_is_found_told_and_healed(desk: Desk) -> None:
    desk.take()
    chunk = desk.chunks()[0]
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"!")
    error = desk.fails("verify")
    assert error.code == "backup-broken"
    assert exit_codes.exit_code(error) == exit_codes.PERMANENT
    assert desk.fails("repair").code == "backup-broken"
    assert "healed" in desk.run("repair", "--folder", f"chat={desk.model}")
    desk.run("verify", "--nightly")
    assert "nothing is known to be bad" in desk.run("repair")
    assert desk.fails("repair", "--folder", "chat").code == "arguments-wrong"


def test_replica_heals_too(desk: Desk) -> None:
    desk.take()
    replica = str(desk.folder / "replica")
    desk.run("init", "--repository", replica)
    assert "1 backups copied" in desk.run("replicate", replica)
    assert "0 backups copied" in desk.run("replicate", replica)
    for chunk in desk.chunks():
        chunk.unlink()
    target = desk.folder / "restored"
    said = desk.run("restore", "chat", str(target), "--replica", replica)
    assert files(target) == files(desk.model)
    assert "came from a replica" in said
    desk.fails("verify")
    desk.run("repair", "--replica", replica)
    desk.run("verify")


def test_damaged_settings_are_made_anew_and_backups_stay(desk: Desk) -> None:
    taken = desk.take()
    settings = desk.folder / "repo/repo.json"
    settings.write_bytes(settings.read_bytes().replace(b":", b"?", 1))
    assert desk.fails("list").code == "repository-damaged"
    assert desk.fails("init").code == "repository-damaged"
    settings.unlink()
    desk.run("init")
    assert taken in desk.run("list")
    target = desk.folder / "restored"
    desk.run("restore", taken, str(target))
    assert files(target) == files(desk.model)
    assert "sent in 0 chunks" in desk.run("take", str(desk.model), "--model", "chat", "--read-all")


def test_damaged_manifest_comes_back_from_a_replica_or_is_given_up(desk: Desk) -> None:
    desk.take()
    replica = str(desk.folder / "replica")
    desk.run("init", "--repository", replica)
    desk.run("replicate", replica)
    (manifest,) = desk.manifests()
    manifest.write_bytes(manifest.read_bytes()[:-1] + b"!")
    assert desk.fails("verify").code == "backup-broken"
    assert desk.fails("prune", "--apply").code == "manifest-damaged"
    assert "or needed by 1 backups whose manifest is damaged" in desk.run("stats")
    assert desk.fails("repair").code == "backup-broken"
    assert "back: chat@" in desk.run("repair", "--replica", replica)
    desk.run("verify")
    desk.run("prune", "--apply")

    (manifest,) = desk.manifests()
    assert desk.fails("give-up", "chat").code == "not-damaged"
    manifest.write_bytes(b"!")
    assert "given up: chat@" in desk.run("give-up", "chat")
    assert desk.manifests() == []
    desk.run("prune", "--apply")
    assert desk.chunks() == []


def test_prune_shows_its_plan_first_and_keeps_what_is_held(desk: Desk) -> None:
    first = desk.take()
    desk.write({**TENSORS, "blk.0.w": BYTES[4_000:]})
    desk.take()
    desk.run("verify")
    planned = desk.run("prune", "--last", "0", "--keep", "daily=0")
    assert "younger than 86400 s" in planned
    assert "nothing was removed" in planned
    desk.run("hold", first, "--reason", "audit")
    assert "held: audit" in desk.run("prune", "--in-use", "chat=3")
    assert "held: audit" in desk.run("list")
    desk.run("release-hold", first)
    assert "0 backups and 0 chunks removed" in desk.run("prune", "--apply")
    for wrong in (("--in-use", "chat"), ("--keep", "nightly=3"), ("--keep", "daily=x")):
        assert desk.fails("prune", *wrong).code == "arguments-wrong"


def test_import_and_what_is_unknown(desk: Desk) -> None:
    desk.run("import", str(desk.model), "--model", "chat")
    assert "imported" in desk.run("list")
    assert desk.fails("show", "nobody").code == "version-unknown"
    desk.take()
    assert desk.fails("show", "chat@2").code == "version-ambiguous"
    assert desk.fails("forget-run", "01M8KCCZ18W5Y5KVTRWT81G8S5").code == "run-unknown"
    assert desk.fails("list", "--repository", "ftp://x").code == "place-invalid"
    assert desk.fails("list", "--repository", "s3:///x").code == "place-invalid"
    assert desk.fails("list", "--repository", str(desk.folder / "no")).code == "repository-missing"
    assert "runs may work" in desk.run("doctor")
    assert "slipway backup init" in desk.run("doctor", "--repository", str(desk.folder / "no"))


def test_sealed_repository_needs_its_key(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    key = desk.folder / "key"
    key.write_bytes(os.urandom(32))
    monkeypatch.setenv("SLIPWAY_BACKUP_KEY_FILE", str(key))
    assert desk.fails("list").code == "key-unneeded"
    monkeypatch.setenv("SLIPWAY_BACKUP_REPOSITORY", str(desk.folder / "sealed"))
    assert "chunks are encrypted" in desk.run("init")
    desk.take()
    target = desk.folder / "restored"
    desk.run("restore", "chat", str(target))
    assert files(target) == files(desk.model)
    monkeypatch.delenv("SLIPWAY_BACKUP_KEY_FILE")
    assert desk.fails("list").code == "key-missing"


def test_settings_are_read_once_and_refused_by_name() -> None:
    env = {
        "SLIPWAY_BACKUP_REPOSITORY": "s3://b/p",
        "SLIPWAY_BACKUP_MB_PER_S": "10",
        "SLIPWAY_BACKUP_THREADS": "8",
        "SLIPWAY_BACKUP_TRANSFER": "boto3",
    }
    settings = backup_settings(environment=env)
    assert (settings.bytes_per_s, settings.threads, settings.plain_boto) == (1e7, 8, True)
    assert backup_settings("/here", env).repository == "/here"
    numbers = {"SLIPWAY_BACKUP_THREADS": "many", "SLIPWAY_BACKUP_MB_PER_S": "0"}
    for wrong in ({}, *({**env, name: text} for name, text in numbers.items())):
        with pytest.raises(SlipwayError) as caught:
            backup_settings(environment=wrong)
        assert caught.value.code in {"settings-missing", "settings-invalid"}
