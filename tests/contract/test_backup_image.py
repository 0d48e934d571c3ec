"""What the sandbox puts into the image of the command line is all that a backup imports."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from slipway.sandbox.images import backup_layers


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("image")
    for layer in backup_layers():
        for inside, local in layer.items():
            place = root / inside.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(local, place)
    (program,) = {path.parents[1] for path in root.rglob("slipway/__init__.py")}
    return program


@pytest.mark.parametrize("hash_", ["sha256", "blake3"])
def test_image_takes_and_verifies_backups(image: Path, tmp_path: Path, hash_: str) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    place = ("--repository", str(tmp_path / "repository"))
    for words in (
        ("init", "--hash", hash_),
        ("take", str(model), "--model", "chat"),
        ("verify",),
    ):
        done = subprocess.run(
            # -S: nothing but the standard library and what is in the image, as in its pods.
            (sys.executable, "-P", "-S", "-B", "-m", "slipway.cli", "backup", *words, *place),
            env={"PYTHONPATH": str(image)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert "100.0% of 1 backup" in done.stdout
