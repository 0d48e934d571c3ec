from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from slipway.adapters.oci_layer import Layer, digest_of
from slipway.core.errors import InputError


def _archive(layer: Layer) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(b"".join(layer.chunks())))


def test_layer_is_a_tar_archive_with_folders_first_and_nothing_of_this_machine(
    tmp_path: Path,
) -> None:
    (tmp_path / "a").write_text("hello")
    (tmp_path / "a").chmod(0o600)
    with _archive(Layer({"/model/sub/a": tmp_path / "a", "model/b": tmp_path / "a"})) as archive:
        entries = archive.getmembers()
        inside = archive.extractfile("model/sub/a")
        assert inside is not None
        assert inside.read() == b"hello"
    assert [entry.name for entry in entries] == ["model", "model/b", "model/sub", "model/sub/a"]
    assert {(e.mtime, e.uid, e.gid, e.uname, e.gname) for e in entries} == {(0, 0, 0, "", "")}
    assert {(e.isdir(), e.mode) for e in entries} == {(True, 0o755), (False, 0o644)}


def test_same_files_in_another_place_and_order_give_the_same_digest(tmp_path: Path) -> None:
    digests = []
    for folder, order in (("one", "ab"), ("two", "ba")):
        (tmp_path / folder).mkdir()
        for name in order:
            (tmp_path / folder / name).write_text(name)
        layer = Layer({f"/model/{name}": tmp_path / folder / name for name in order})
        digests.append(layer.blob().digest)
    assert digests[0] == digests[1]


def test_one_changed_byte_gives_another_digest(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"\0" * 3_000_000)
    before = Layer({"/a": path}).blob()
    path.write_bytes(b"\0" * 2_999_999 + b"\1")
    after = Layer({"/a": path}).blob()
    assert before.digest != after.digest
    assert before.size_bytes == after.size_bytes


@pytest.mark.parametrize("size_bytes", [0, 1, 511, 512, 513, 1024 * 1024 + 1])
def test_stated_size_is_that_of_the_bytes(tmp_path: Path, size_bytes: int) -> None:
    (tmp_path / "a").write_bytes(b"x" * size_bytes)
    layer = Layer({"/a": tmp_path / "a"})
    content = b"".join(layer.chunks())
    assert layer.blob().size_bytes == len(content)
    assert len(content) % 512 == 0


def test_large_file_comes_in_small_chunks(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 5_000_000)
    assert max(map(len, Layer({"/a": tmp_path / "a"}).chunks())) <= 1024 * 1024


def test_long_path_survives(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("hello")
    name = "model/" + "very-long-name-" * 20
    with _archive(Layer({name: tmp_path / "a"})) as archive:
        assert archive.getmembers()[-1].name == name


@pytest.mark.parametrize("path", ["", "/", "../etc/passwd", "/model/../../x"])
def test_path_out_of_the_image_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(InputError, match="layer-path-invalid"):
        Layer({path: tmp_path / "a"})


def test_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing-file") as caught:
        Layer({"/a": tmp_path / "missing-file"})
    assert caught.value.code == "layer-file-missing"


def test_digest_is_sha256_of_all_chunks() -> None:
    digest, size_bytes = digest_of(iter([b"he", b"llo"]))
    assert digest.startswith("sha256:2cf24dba5fb0a30e")
    assert size_bytes == 5
