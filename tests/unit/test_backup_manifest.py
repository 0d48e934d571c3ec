from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from slipway.core.backup import manifest, names, settings
from slipway.core.backup.collection import Condemned, condemnable, current_epoch, doomed, reusable
from slipway.core.backup.cuts import CutRules
from slipway.core.backup.manifest import Chunk, Extent, FileEntry, Hole, Manifest, Origin
from slipway.core.backup.names import ChunkKey, ManifestName
from slipway.core.backup.settings import RepositorySettings
from slipway.core.errors import PermanentError

A, B = "aa" * 32, "bb" * 32
NAME = ManifestName("org/chat", "20260301T000000Z", "01J00000000000000000000000")


def entry(**changes: Any) -> FileEntry:
    made: dict[str, Any] = {
        "path": "weights/one.safetensors",
        "size_bytes": 30,
        "mode": 0o644,
        "mtime_ns": 1,
        "ctime_ns": 2,
        "chunks": (0, 1, 0),
    }
    return FileEntry(**{**made, **changes})


def version(*files: FileEntry, **changes: Any) -> Manifest:
    made: dict[str, Any] = {
        "repository": "r",
        "model": "org/chat",
        "taken_at_ns": 5,
        "algorithm": "sha256",
        "origin": Origin(place="/models/chat", tool="slipway 1"),
        "files": files or (entry(),),
        "chunks": (Chunk(digest=A, size_bytes=10), Chunk(digest=B, size_bytes=10, epoch=3)),
    }
    return Manifest(**{**made, **changes})


class TestManifest:
    def test_what_was_written_is_read_back(self) -> None:
        made = version(entry(), entry(path="odd\udcff.bin"), tags=("gold",))

        assert manifest.from_storage(manifest.to_storage(made), "x") == made
        assert made.size_bytes == 60
        assert made.chunk_keys() == {ChunkKey(A), ChunkKey(B, 3)}
        assert manifest.to_storage(made).isascii()

    def test_chunks_have_their_places_and_holes_are_left_out(self) -> None:
        holes = (Hole(offset_bytes=0, size_bytes=4), Hole(offset_bytes=24, size_bytes=6))
        made = version(entry(size_bytes=40, holes=holes))

        found = list(manifest.extents(made, made.files[0]))
        assert [item.offset_bytes for item in found] == [4, 14, 30]
        assert found[-1] == Extent(30, made.chunks[0])
        assert found[-1].end_bytes == 40

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            (version(entry(chunks=(0, 2, 0))), "names a chunk that is not in the list"),
            (version(entry(size_bytes=31)), "not as long as the file"),
            (version(entry(path="../x")), "is no path below the folder"),
            (version(entry(path="/x")), "is no path below the folder"),
            (version(entry(), entry()), "stands in it twice"),
        ],
    )
    def test_manifest_that_cannot_be_restored_is_refused(self, wrong: Manifest, words: str) -> None:
        with pytest.raises(PermanentError, match=words) as caught:
            manifest.from_storage(manifest.to_storage(wrong), "x")
        assert caught.value.code == "manifest-damaged"

    @pytest.mark.parametrize("stored", [b"{", b"[]", b"\xff", b'{"format": 1}'])
    def test_bytes_that_are_no_manifest_are_refused(self, stored: bytes) -> None:
        with pytest.raises(PermanentError) as caught:
            manifest.from_storage(stored, "x")
        assert caught.value.code == "manifest-damaged"

    def test_manifest_of_a_later_slipway_is_named_as_such(self) -> None:
        later = json.dumps({"format": 2, "anything": 1}).encode()
        with pytest.raises(PermanentError, match="has format 2") as caught:
            manifest.from_storage(later, "x")
        assert caught.value.code == "manifest-newer"

    def test_sum_is_the_sha256_of_the_bytes(self) -> None:
        assert manifest.sum_of(b"").startswith(b"e3b0c442")


class TestNames:
    def test_chunk_is_read_back_from_its_key(self) -> None:
        key = ChunkKey(A, 12)
        assert str(key) == f"chunks/sha256/aa/{A}.12"
        assert names.read_chunk_key(str(key)) == key

    @pytest.mark.parametrize(
        "key", [f"chunks/sha256/ab/{A}.1", f"chunks/sha256/aa/{A}", "chunks/x", f"x/aa/{A}.1"]
    )
    def test_other_keys_are_no_chunks(self, key: str) -> None:
        assert names.read_chunk_key(key) is None

    def test_manifest_is_read_back_from_its_key(self) -> None:
        assert NAME.key.startswith("manifests/org%2Fchat/20260301T000000Z-01J")
        assert names.read_manifest_key(NAME.key) == NAME
        assert names.read_manifest_key(NAME.key + names.SUM) is None
        assert names.read_manifest_key("manifests/x.json") is None
        assert str(NAME) == f"org/chat@{NAME.taken}-{NAME.writer}"

    def test_hold_names_its_backup(self) -> None:
        assert names.held_manifest(names.hold_key(NAME)) == NAME
        assert names.held_manifest("holds/x.json") is None

    def test_epochs_sort_as_numbers(self) -> None:
        assert names.condemned_key(9) < names.condemned_key(10)


class TestCollection:
    def test_newest_chunk_that_is_not_condemned_is_named(self) -> None:
        stored = [ChunkKey(A, 0), ChunkKey(A, 2), ChunkKey(A, 5), ChunkKey(B, 0)]
        lists = [Condemned(epoch=6, chunks=(str(ChunkKey(A, 5)), str(ChunkKey(B, 0))))]

        assert reusable(stored, lists) == {A: ChunkKey(A, 2)}

    def test_only_what_nobody_names_and_is_of_an_earlier_epoch_is_condemned(self) -> None:
        stored = [ChunkKey(A, 0), ChunkKey(A, 3), ChunkKey(B, 1)]

        assert condemnable(stored, [ChunkKey(B, 1)], epoch=3) == (ChunkKey(A, 0),)

    def test_what_was_named_meanwhile_stays(self) -> None:
        removal = Condemned(epoch=3, chunks=(str(ChunkKey(A)), str(ChunkKey(B))))

        assert doomed(removal, [ChunkKey(B)]) == (str(ChunkKey(A)),)

    def test_first_epoch_is_zero(self) -> None:
        assert current_epoch([]) == 0
        assert current_epoch([3, 7]) == 7


class TestSettings:
    def test_what_was_written_is_read_back(self) -> None:
        made = RepositorySettings(id="r", cuts=CutRules())
        assert settings.from_storage(settings.to_storage(made), "s3://x") == made

    def test_repository_of_a_later_slipway_is_named_as_such(self) -> None:
        made = replace(RepositorySettings(id="r", cuts=CutRules()), format=2)
        with pytest.raises(PermanentError) as caught:
            settings.from_storage(settings.to_storage(made), "s3://x")
        assert caught.value.code == "repository-newer"

    @pytest.mark.parametrize("stored", [b"\xff", b"restic", b'{"version": 2, "id": "x"}'])
    def test_repository_of_another_tool_is_refused(self, stored: bytes) -> None:
        with pytest.raises(PermanentError, match="s3://x is no repository of Slipway") as caught:
            settings.from_storage(stored, "s3://x")
        assert caught.value.code == "repository-foreign"
