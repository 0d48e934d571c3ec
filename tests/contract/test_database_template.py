"""Templates of migrated databases: made once, copied whole, never over data."""

from __future__ import annotations

import sqlite3
import stat
import sys
from contextlib import closing
from pathlib import Path

import pytest

from slipway.core.errors import PermanentError
from slipway.sandbox.database_template import DatabaseTemplate

# Leaves its rows in the write-ahead log, as a server does that is ended without a checkpoint.
MAKE = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA journal_mode=WAL")
connection.execute("CREATE TABLE made (by TEXT)")
connection.execute("INSERT INTO made VALUES (?)", (os.environ["MAKER"],))
connection.commit()
open(sys.argv[2], "a").write("made\\n")
os._exit(0)
"""


def template(log: Path, *, script: str = MAKE) -> DatabaseTemplate:
    return DatabaseTemplate(
        distribution="pytest",
        command=(sys.executable, "-c", script, "{path}", str(log)),
        environment={"MAKER": "at {path}"},
    )


def rows(database: Path) -> list[tuple[str]]:
    with closing(sqlite3.connect(database)) as connection:
        return list(connection.execute("SELECT by FROM made"))


def test_a_template_is_made_once_and_copied_whole(tmp_path: Path) -> None:
    cache, log = tmp_path / "cache", tmp_path / "log"
    for name in ("one", "two"):
        template(log).provide(tmp_path / name, cache=cache)
        assert rows(tmp_path / name)[0][0].startswith(f"at {cache}")
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert log.read_text() == "made\n"
    assert [path.suffix for path in cache.iterdir()] == [".sqlite"]


def test_a_database_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(b"data")
    template(tmp_path / "log").provide(tmp_path / "mine", cache=tmp_path / "cache")
    assert (tmp_path / "mine").read_bytes() == b"data"


@pytest.mark.parametrize("script", ["raise SystemExit('no such table')", "pass"])
def test_a_migration_that_fails_leaves_nothing_to_be_copied(tmp_path: Path, script: str) -> None:
    for _ in range(2):
        with pytest.raises(PermanentError) as caught:
            template(tmp_path / "log", script=script).provide(
                tmp_path / "new", cache=tmp_path / "cache"
            )
        assert caught.value.code == "database-migration-failed"
        assert not (tmp_path / "new").exists()
