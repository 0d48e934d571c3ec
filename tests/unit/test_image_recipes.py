"""Recipes of images copy what is there, and all that their program imports."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
RECIPES = sorted((PROJECT / "deployments/images").glob("*/Dockerfile"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.parent.name)
def test_program_of_an_image_starts_from_what_is_copied(recipe: Path, tmp_path: Path) -> None:
    text = recipe.read_text()
    for words in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        *sources, target = words.split()
        for source in sources:
            place = PROJECT / source
            goal = tmp_path / target.lstrip("/")
            if place.is_dir():
                shutil.copytree(place, goal, dirs_exist_ok=True)
            else:
                goal.mkdir(parents=True, exist_ok=True)
                shutil.copy(place, goal)
    if 'ENTRYPOINT ["slipway"]' in text:  # which pip makes of the project that was copied
        (path,) = re.findall(r"--no-deps (\S+)", text)
        module = "slipway.cli"
        assert (tmp_path / path.lstrip("/") / "pyproject.toml").is_file()
    else:
        (module,) = re.findall(r'ENTRYPOINT \["python3", "-m", "([^"]+)"\]', text)
        (path,) = re.findall(r"PYTHONPATH=(\S+)", text)
    started = subprocess.run(
        (sys.executable, "-P", "-m", module, "--help"),
        env={"PYTHONPATH": str(tmp_path / path.lstrip("/"))},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert started.returncode == 0, started.stderr
