"""Weights on a volume: whole, right, or not there, whatever happens on the way."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from slipway.adapters import model_manifest
from slipway.adapters.weights_volume.versions import locked, sweep
from slipway.core.errors import PermanentError, SlipwayError, TransientError
from tests.contract.volume_toys import FILES, FolderSource, Shelf, shelf_below, version


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return shelf_below(tmp_path)


def test_version_appears_whole_and_alone(shelf: Shelf) -> None:
    shelf.place()

    assert shelf.content() == FILES
    assert shelf.names() == {shelf.digest}


def test_version_that_is_right_is_not_fetched_again(shelf: Shelf) -> None:
    shelf.place()
    shelf.source.files.clear()

    shelf.place()

    assert "every byte checked" in shelf.said[-1]


def _flip(files: Path) -> None:
    body = bytearray((files / "deep/weights.gguf").read_bytes())
    body[77] ^= 1
    (files / "deep/weights.gguf").write_bytes(body)


def _lead_elsewhere(files: Path) -> None:
    same = files.parent.parent.parent / "elsewhere"
    (files / "deep").rename(same)
    (files / "deep").symlink_to(same)


def _become_folder(files: Path) -> None:
    (files / "config.json").unlink()
    (files / "config.json").mkdir()
    (files / "config.json" / "x").write_text("x")


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (_flip, "deep/weights.gguf has sha256"),
        (lambda files: (files / "config.json").unlink(), "config.json is missing"),
        (lambda files: (files / "config.json").write_bytes(b""), "config.json has 0 bytes"),
        (lambda files: (files / "deep" / "more.gguf").touch(), "deep/more.gguf is not of this"),
        (lambda files: (files / "added").mkdir(), "added is not of this version"),
        (_lead_elsewhere, "deep is not of this version"),
        (_become_folder, "config.json is not of this version"),
        (
            lambda files: (files.parent / model_manifest.FILE_NAME).write_text("{}"),
            f"{model_manifest.FILE_NAME} is damaged",
        ),
    ],
    ids=["flipped", "missing", "cut", "added", "folder", "link", "folder-for-file", "manifest"],
)
def test_what_is_wrong_on_the_volume_is_named_and_mended(
    shelf: Shelf, harm: Callable[[Path], object], named: str
) -> None:
    shelf.place()
    harm(shelf.files)

    shelf.place()

    assert any(named in line for line in shelf.said), shelf.said
    assert shelf.content() == FILES
    assert not any(path.is_symlink() for path in shelf.files.rglob("*"))
    assert shelf.names() == {shelf.digest}
    assert not (shelf.files / "added").exists()


def test_only_what_is_wrong_is_fetched(shelf: Shelf) -> None:
    shelf.place()
    (shelf.files / "config.json").write_bytes(b'{"a": 2}')
    shelf.source.served.clear()

    shelf.place()

    assert shelf.source.served == {"config.json": len(FILES["config.json"])}


def test_file_that_cannot_be_mended_stays_refused(shelf: Shelf) -> None:
    shelf.place()
    (shelf.files / "config.json").write_bytes(b'{"a": 2}')
    shelf.source.files["config.json"] = b'{"a": 2}'

    for _ in range(2):
        with pytest.raises(PermanentError, match=r"the file config\.json in the object store"):
            shelf.place()


@pytest.mark.parametrize("body", [b'{"a": 2}', b"", b"x" * 5000])
def test_other_bytes_in_the_store_never_appear(shelf: Shelf, body: bytes) -> None:
    shelf.source.files["config.json"] = body

    with pytest.raises(PermanentError) as caught:
        shelf.place()

    assert caught.value.code == "checksum-mismatch"
    assert not (shelf.folder / shelf.digest).exists()


def test_other_list_of_files_in_the_store_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    _, other = version(tmp_path / "other", {**FILES, "config.json": b'{"a": 2}'})

    with pytest.raises(PermanentError, match="lists the files of weights") as caught:
        shelf.place(FolderSource(other))

    assert caught.value.code == "checksum-mismatch"
    assert not (shelf.folder / shelf.digest).exists()


def test_broken_connection_is_taken_up_where_it_broke(shelf: Shelf) -> None:
    shelf.source.failures = 3

    shelf.place()

    assert shelf.content() == FILES
    assert shelf.source.served["deep/weights.gguf"] == len(FILES["deep/weights.gguf"])


def test_store_that_stays_away_may_be_asked_again_later(shelf: Shelf) -> None:
    shelf.source.failures = 1000
    with pytest.raises(TransientError):
        shelf.place()

    shelf.source.failures = 0
    shelf.place()

    assert shelf.content() == FILES


def test_left_over_bytes_that_are_wrong_are_fetched_anew(shelf: Shelf) -> None:
    part = shelf.folder / f".part-{shelf.digest}" / "files" / "deep"
    part.mkdir(parents=True)
    (part / "weights.gguf").write_bytes(b"wrong")

    shelf.place()

    assert shelf.content() == FILES


# -- killed anywhere ------------------------------------------------------------------------------

_WRITES = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"})


def _killed_at(number: int, shelf: Shelf, act: Callable[[], object]) -> bool:
    """Run `act` in a process that dies before its n-th access to a file; whether it died."""
    child = os.fork()
    if child == 0:
        count = 0

        def die() -> None:
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            if event in _WRITES and str(shelf.folder) in str(arguments[0]):
                die()

        shelf.source.at_chunk = die
        sys.addaudithook(hook)
        try:
            act()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def _assert_whole_or_absent(shelf: Shelf) -> None:
    if (shelf.folder / shelf.digest).exists():
        assert shelf.content() == FILES


def test_killed_before_any_access_the_version_is_absent_or_whole_and_the_next_run_finishes(
    shelf: Shelf,
) -> None:
    number, step = 1, 1 if os.environ.get("SLIPWAY_SOAK") else 3
    while _killed_at(number, shelf, shelf.place):
        _assert_whole_or_absent(shelf)
        if number % 2:  # every other run begins with what several killed ones left
            shelf.place()
            assert shelf.content() == FILES
            assert shelf.names() == {shelf.digest}
            sweep(shelf.folder, frozenset({"0" * 64}))
        number += step
    assert number > 20
    assert shelf.content() == FILES


def test_killed_while_mending_the_next_run_finishes(shelf: Shelf) -> None:
    shelf.place()
    number = 1
    _flip(shelf.files)
    while _killed_at(number, shelf, shelf.place):
        shelf.place()
        assert shelf.content() == FILES
        assert shelf.names() == {shelf.digest}
        _flip(shelf.files)
        number += 3
    assert number > 10


def test_killed_while_removing_what_is_left_under_its_name_is_whole(shelf: Shelf) -> None:
    other = frozenset({"0" * 64})
    shelf.place()
    number = 1
    while _killed_at(number, shelf, lambda: sweep(shelf.folder, other)):
        _assert_whole_or_absent(shelf)
        sweep(shelf.folder, other)
        assert shelf.names() == set()
        shelf.place()
        number += 2
    assert number > 3


# -- several at once ------------------------------------------------------------------------------


def test_pods_that_start_at_once_fetch_each_file_once(shelf: Shelf, tmp_path: Path) -> None:
    source = FolderSource(
        shelf.source.files, log=tmp_path / "log", at_chunk=lambda: time.sleep(0.02)
    )
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            try:
                shelf.place(source)
            except SlipwayError:
                os._exit(1)
            os._exit(0)
        children.append(child)

    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]

    assert codes == [0, 0, 0, 0]
    assert sorted((tmp_path / "log").read_text().split()) == sorted(FILES)
    assert shelf.content() == FILES


def test_locks_of_two_versions_do_not_touch(tmp_path: Path) -> None:
    first, second = "1" * 64, "2" * 64
    with locked(tmp_path, first, wait=None) as held:
        assert held
        assert _can_lock(tmp_path, second)
        assert not _can_lock(tmp_path, first)
    assert _can_lock(tmp_path, first)


def _can_lock(folder: Path, digest: str) -> bool:
    child = os.fork()
    if child == 0:
        with locked(folder, digest, wait=None) as held:
            os._exit(0 if held else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# -- removal --------------------------------------------------------------------------------------


def test_sweep_keeps_what_it_is_told_and_removes_the_rest(shelf: Shelf) -> None:
    shelf.place()
    old, part_of_kept = "1" * 64, f".part-{shelf.digest}"
    for name in (old, f".part-{'2' * 64}", f".gone-{'3' * 64}", part_of_kept, "notes"):
        (shelf.folder / name / "files").mkdir(parents=True)

    assert sweep(shelf.folder, frozenset({shelf.digest})) == (old,)

    assert shelf.names() == {shelf.digest, "notes"}
    assert shelf.content() == FILES


def test_sweep_leaves_a_version_that_is_being_fetched(shelf: Shelf) -> None:
    part = shelf.folder / f".part-{shelf.digest}"
    part.mkdir(parents=True)
    child = os.fork()
    if child == 0:
        with locked(shelf.folder, shelf.digest, wait=None):
            (shelf.folder / "locked").touch()
            time.sleep(60)
    try:
        while not (shelf.folder / "locked").exists():
            time.sleep(0.01)
        sweep(shelf.folder, frozenset({"0" * 64}))
        assert part.exists()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    sweep(shelf.folder, frozenset({"0" * 64}))
    assert not part.exists()


def test_sweep_of_a_service_that_has_nothing_there_does_nothing(tmp_path: Path) -> None:
    assert sweep(tmp_path / "nothing", frozenset({"0" * 64})) == ()


def test_folder_that_cannot_be_made_is_refused_with_what_to_do(shelf: Shelf) -> None:
    shelf.folder.parent.mkdir()
    shelf.folder.write_text("a file")

    with pytest.raises(PermanentError) as caught:
        shelf.place()

    assert caught.value.code == "volume-not-writable"
