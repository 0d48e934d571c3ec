"""What the doctor finds out about each server; the table is what the servers do, measured."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

import pytest

from slipway.adapters.backups.folder import FolderBackupStore
from slipway.adapters.backups.probes.doctor import examine
from slipway.adapters.backups.s3 import S3BackupStore
from slipway.core.backup.facts import Finding, facts_of
from slipway.core.backup.names import DOCTOR
from slipway.core.backup.sums import sha256_sum
from slipway.core.backup.ulid import ulid
from slipway.core.errors import PermanentError
from tests.contract.s3_servers import SERVERS, S3Server

_CHECKSUMS = (
    "wrong-sha256",
    "wrong-sha1",
    "wrong-crc32",
    "wrong-crc32c",
    "wrong-crc64nvme",
    "wrong-sha256-of-part",
    "wrong-whole",
)
_CONDITIONS = (
    "create-once",
    "one-winner",
    "create-once-of-parts",
    "if-match",
    "if-match-delete",
)
_LOCKS = (
    "lock-compliance",
    "lock-compliance-shortened",
    "lock-governance",
    "lock-governance-shortened",
    "legal-hold",
)
_EVERYWHERE = dict.fromkeys(
    ("chunk", "range", "clock", "list", "remove", "wrong-part", "parts"), "yes"
)


def _all(names: tuple[str, ...], kept: str) -> dict[str, str]:
    return dict.fromkeys(names, kept)


MEASURED = {
    # SeaweedFS 4.48
    "seaweedfs": {
        **_EVERYWHERE,
        **_all(_CHECKSUMS, "yes"),
        **_all(_CONDITIONS, "yes"),
        **_all(_LOCKS, "yes"),
        "changed-chunk": "yes",
        "changed-fast-chunk": "yes",
        "wrong-md5": "yes",
        "wrong-payload": "no",
        "checksum-given-back": "yes",
        "sse": "not offered",
        "attributes": "no",
        "wrong-secret": "yes",
        "nobody": "yes",
        "versions": "yes",
        "lifecycle": "yes",
    },
    # JuiceFS 1.4.2 gateway
    "juicefs": {
        **_EVERYWHERE,
        **_all(_CHECKSUMS, "no"),
        **_all(_CONDITIONS, "no"),
        **_all(_LOCKS, "not offered"),
        "changed-chunk": "yes",
        "changed-fast-chunk": "no",
        "wrong-md5": "yes",
        "wrong-payload": "yes",
        "checksum-given-back": "no",
        "sse": "not offered",
        "attributes": "no",
        "wrong-secret": "yes",
        "nobody": "yes",
        "versions": "not offered",
        "lifecycle": "not offered",
    },
    # rclone 1.75.2 serve s3
    "rclone": {
        **_EVERYWHERE,
        **_all(_CHECKSUMS, "no"),
        **_all(_CONDITIONS, "no"),
        **_all(_LOCKS, "not offered"),
        "changed-chunk": "no",
        "changed-fast-chunk": "no",
        "wrong-md5": "yes",
        "wrong-payload": "no",
        "checksum-given-back": "yes",
        "sse": "no",
        "attributes": "no",
        "wrong-secret": "yes",
        "nobody": "yes",
        "versions": "not offered",
        "lifecycle": "not offered",
    },
    # moto 5.2
    "moto": {
        **_EVERYWHERE,
        **_all(_CHECKSUMS, "no"),
        **_all(_CONDITIONS, "yes"),
        **_all(_LOCKS, "yes"),
        "changed-chunk": "no",
        "changed-fast-chunk": "no",
        "wrong-md5": "no",
        "wrong-payload": "no",
        "checksum-given-back": "yes",
        "sse": "yes",
        "attributes": "yes",
        "wrong-secret": "no",
        "nobody": "yes",
        "versions": "yes",
        "lifecycle": "yes",
        "lock-compliance-shortened": "no",
        "lock-governance-shortened": "no",
    },
}


def found(findings: list[Finding]) -> dict[str, str]:
    return {item.probe: item.kept.value for item in findings}


def examined(store: S3BackupStore | FolderBackupStore, *, with_bucket: bool) -> list[Finding]:
    name = ulid(time.time_ns(), secrets.randbits(80))
    # Else the bucket with the locked objects stays, on a server that goes with the test.
    patience = time.sleep if os.environ.get("SLIPWAY_SOAK") else lambda _: None
    return examine(store, name=name, with_bucket=with_bucket, sleep=patience)


@pytest.mark.parametrize("server", list(SERVERS))
def test_server_is_classified_as_it_was_measured(server: str, tmp_path: Path) -> None:
    with SERVERS[server](tmp_path) as running:
        store = running.store("some/prefix")
        stale = f"{DOCTOR}{ulid(0, 1)}/left"
        store.put(stale, b"", checksum=sha256_sum(b""))
        findings = examined(store, with_bucket=True)
        assert found(findings) == MEASURED[server]
        assert list(store.list("")) == []
        facts = facts_of(findings, probed="now")
        assert facts.conditional_writes == (server in {"seaweedfs", "moto"})
        assert facts.checks_sha256 == (server in {"seaweedfs", "juicefs"})
        assert facts.checks_crc32c == (server == "seaweedfs")


def test_folder_keeps_what_a_backup_relies_on(tmp_path: Path) -> None:
    findings = examined(FolderBackupStore(tmp_path / "made"), with_bucket=False)
    assert set(found(findings).values()) == {"yes"}
    assert facts_of(findings, probed="now").conditional_writes
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_missing_bucket_and_wrong_keys_are_named(tmp_path: Path) -> None:
    with SERVERS["juicefs"](tmp_path) as running:
        wrong = S3Server(running.endpoint, running.access_key, "wrong")
        for store, code in (
            (running.store(bucket="nowhere"), "bucket-missing"),
            (wrong.store(), "object-store-credentials"),
        ):
            with pytest.raises(PermanentError) as caught:
                examined(store, with_bucket=False)
            assert caught.value.code == code
