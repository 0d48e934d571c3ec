from __future__ import annotations

from pathlib import Path

import pytest

from slipway.sandbox.runtime.shim import LONGEST_LINE_BYTES, LogFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "0.log"


def records(path: Path) -> list[tuple[str, str, str]]:
    rows = [line.split(" ", 3) for line in path.read_text().splitlines()]
    return [(stream, tag, text) for _, stream, tag, text in rows]


def test_line_that_comes_in_pieces_is_one_record(path: Path) -> None:
    log = LogFile(str(path))
    log.write("stdout", b"he")
    log.write("stderr", b"other\n")
    log.write("stdout", b"llo\nwor")
    log.write("stdout", b"ld\n")
    assert records(path) == [
        ("stderr", "F", "other"),
        ("stdout", "F", "hello"),
        ("stdout", "F", "world"),
    ]


def test_line_of_exactly_the_limit_is_whole_and_one_more_byte_splits_it(path: Path) -> None:
    log = LogFile(str(path))
    log.write("stdout", b"x" * LONGEST_LINE_BYTES + b"\n")
    log.write("stdout", b"y" * (LONGEST_LINE_BYTES + 1) + b"\n")
    assert [(tag, len(text)) for _, tag, text in records(path)] == [
        ("F", LONGEST_LINE_BYTES),
        ("P", LONGEST_LINE_BYTES),
        ("F", 1),
    ]


def test_endless_line_is_written_as_it_comes_not_kept_in_memory(path: Path) -> None:
    log = LogFile(str(path))
    for _ in range(4):
        log.write("stdout", b"x" * LONGEST_LINE_BYTES)
    assert [tag for _, tag, _ in records(path)] == ["P"] * 3


def test_end_without_newline_is_a_partial_record(path: Path) -> None:
    log = LogFile(str(path))
    log.write("stdout", b"half")
    log.end("stdout")
    log.end("stdout")
    assert records(path) == [("stdout", "P", "half")]


def test_empty_lines_are_records_too(path: Path) -> None:
    log = LogFile(str(path))
    log.write("stdout", b"\n\n")
    assert records(path) == [("stdout", "F", "")] * 2


def test_reopened_log_goes_on_in_a_new_file(path: Path) -> None:
    log = LogFile(str(path))
    log.write("stdout", b"one\n")
    path.rename(f"{path}.1")
    log.write("stdout", b"two\n")
    log.reopen()
    log.write("stdout", b"three\n")
    assert [text for _, _, text in records(Path(f"{path}.1"))] == ["one", "two"]
    assert [text for _, _, text in records(path)] == ["three"]


def test_log_whose_folder_is_missing_drops_lines_until_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "late" / "0.log"
    log = LogFile(str(path))
    log.write("stdout", b"lost\n")
    path.parent.mkdir()
    log.reopen()
    log.write("stdout", b"kept\n")
    assert records(path) == [("stdout", "F", "kept")]
