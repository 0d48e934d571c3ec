"""When the orchestrator is told of the flows again."""

from __future__ import annotations

from pathlib import Path

import pytest

from slipway.cli.sandbox_start import deployments_stamp


def given_project(folder: Path) -> Path:
    (folder / "flows").mkdir()
    (folder / "prefect.yaml").write_text("name: slipway")
    (folder / "flows" / "release.py").write_text("def release(): ...")
    return folder


def test_stamp_of_the_same_files_is_the_same(tmp_path: Path) -> None:
    project = given_project(tmp_path)
    assert deployments_stamp(project) == deployments_stamp(project)


@pytest.mark.parametrize("file", ["prefect.yaml", "flows/release.py", "flows/another.py"])
def test_changed_file_changes_the_stamp(tmp_path: Path, file: str) -> None:
    project = given_project(tmp_path)
    before = deployments_stamp(project)
    (project / file).write_text("changed")
    assert deployments_stamp(project) != before
