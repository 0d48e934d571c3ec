from __future__ import annotations

import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from slipway.core.errors import InputError, PermanentError, TransientError
from slipway.sandbox import build

GO_MOD = """module slipway.dev/controlplane

require (
\tistio.io/istio v0.0.0-20260827124520-eed52ebb66ad
\tk8s.io/kubernetes v1.36.3
)
"""

# Stands for the Go toolchain: answers what the builder asks, and notes each call.
FAKE_GO = """#!/bin/sh
echo "$*" >> "{log}"
case "$1 $2" in
  "env GOVERSION") echo go1.26.9 ;;
  "list -m") echo "istio.io/istio {modules}/istio"; echo "sigs.k8s.io/gateway-api {modules}/gw" ;;
  list*) printf 'one\\ntwo\\n' ;;
  build*)
    echo one; echo two
    {build}
    while [ "$1" != -o ]; do shift; done
    echo binary > "$2"; chmod +x "$2" ;;
esac
"""
CRD = "kind: CustomResourceDefinition\nmetadata: {name: gateways.example.dev}\n"


class FakeGo:
    """A folder for PATH with a `go` in it, and a cache of its own."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.log = root / "calls"
        istio = root / "istio/manifests/charts/base/files"
        gateway = root / "gw/config/crd/standard"
        for folder in (root / "bin", istio, gateway):
            folder.mkdir(parents=True)
        (istio / "crd-all.gen.yaml").write_text(f"{CRD}---\nkind: Other\n")
        (gateway / "gateway.networking.k8s.io_x.yaml").write_text(CRD.replace("gateways", "routes"))
        self.that_runs("")
        monkeypatch.delenv(build.OVERRIDE_VARIABLE, raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        monkeypatch.setenv("PATH", f"{root / 'bin'}:/usr/bin:/bin")

    def that_runs(self, script: str) -> None:
        """Let `go build` run `script` before it writes its output."""
        program = self.root / "bin/go"
        program.write_text(FAKE_GO.format(log=self.log, modules=self.root, build=script))
        program.chmod(0o755)

    def builds(self) -> int:
        """Return how often `go build` was called."""
        return sum(line.startswith("build") for line in self.log.read_text().splitlines())


@pytest.fixture
def fake_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGo:
    return FakeGo(tmp_path, monkeypatch)


def silent(_: str) -> None:
    """Show nothing."""


def test_first_call_builds_and_reports_progress(fake_go: FakeGo) -> None:
    lines: list[str] = []

    binary = build.control_plane(lines.append)

    assert binary.read_text() == "binary\n"
    assert "control plane: 2 of 2 packages, linking" in lines
    names = sorted(path.name for path in build.crds(binary).iterdir())
    assert names == ["gateways.example.dev.json", "routes.example.dev.json"]
    crd = json.loads((build.crds(binary) / names[0]).read_text())
    assert crd["metadata"]["name"] == "gateways.example.dev"


def test_second_call_does_not_build(fake_go: FakeGo) -> None:
    first = build.control_plane(silent)

    assert build.control_plane(silent) == first
    assert fake_go.builds() == 1


def test_two_builds_at_once_are_one(fake_go: FakeGo) -> None:
    fake_go.that_runs("sleep 0.3")
    lines: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        binaries = {*pool.map(build.control_plane, (lines.append, lines.append))}
    assert len(binaries) == 1
    assert fake_go.builds() == 1
    assert "control plane: another process is building, waiting for it" in lines


def test_failed_build_leaves_no_binary_and_shows_the_compiler(fake_go: FakeGo) -> None:
    fake_go.that_runs("echo 'main.go:7: undefined: x'; exit 1")

    with pytest.raises(PermanentError, match="undefined: x"):
        build.control_plane(silent)

    assert not list(build.cache_folder().rglob(build.BINARY_NAME))
    assert [path.name for path in build.cache_folder().iterdir()] == ["lock"]


def test_build_after_a_failed_one_succeeds(fake_go: FakeGo) -> None:
    fake_go.that_runs("exit 1")
    with pytest.raises(PermanentError):
        build.control_plane(silent)
    fake_go.that_runs("")

    assert build.control_plane(silent).exists()


def test_killed_build_is_transient(fake_go: FakeGo) -> None:
    fake_go.that_runs("kill -9 $$")

    with pytest.raises(TransientError, match="interrupted"):
        build.control_plane(silent)


def test_modules_without_crds_are_refused(fake_go: FakeGo) -> None:
    (fake_go.root / "gw/config/crd/standard/gateway.networking.k8s.io_x.yaml").unlink()

    with pytest.raises(PermanentError, match="holds no custom resources"):
        build.control_plane(silent)

    assert not list(build.cache_folder().rglob(build.BINARY_NAME))


def test_build_forgets_what_nobody_used_for_long(fake_go: FakeGo) -> None:
    old = a_build_of_long_ago("old")

    build.control_plane(silent)

    assert not old.exists()


def test_build_keeps_an_old_binary_that_still_runs(fake_go: FakeGo) -> None:
    old = a_build_of_long_ago("old")
    shutil.copy("/bin/cat", old / build.BINARY_NAME)
    os.utime(old, (0, 0))
    with subprocess.Popen([old / build.BINARY_NAME], stdin=subprocess.PIPE) as process:
        build.control_plane(silent)

        assert (old / build.BINARY_NAME).exists()
        process.terminate()


def test_build_removes_what_an_interrupted_one_left(fake_go: FakeGo) -> None:
    left = build.cache_folder() / ".building-x"
    left.mkdir(parents=True)

    build.control_plane(silent)

    assert not left.exists()


def a_build_of_long_ago(name: str) -> Path:
    folder = build.cache_folder() / name
    folder.mkdir(parents=True)
    os.utime(folder, (0, 0))
    return folder


def test_override_wins_over_the_build(fake_go: FakeGo, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = fake_go.root / "mine"
    binary.write_text("")
    binary.chmod(0o755)
    monkeypatch.setenv(build.OVERRIDE_VARIABLE, str(binary))

    assert build.control_plane(silent) == binary
    assert not fake_go.log.exists()


def test_override_without_executable_is_refused(
    fake_go: FakeGo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(build.OVERRIDE_VARIABLE, str(fake_go.root / "nothing"))

    with pytest.raises(InputError, match="no executable file"):
        build.control_plane(silent)


def test_no_go_on_path_names_the_packaged_toolchain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    toolchain = build.find_go(str(tmp_path))

    assert toolchain == build.Toolchain(program=None, version="go1.26.6")


@pytest.mark.parametrize(
    ("version", "enough"),
    [
        ("go1.26", True),
        ("go1.26.8", True),
        ("go1.27rc1", True),
        ("go2.0", True),
        ("go1.25.9", False),
        ("devel", False),
        ("", False),
    ],
)
def test_go_version_is_compared_with_the_oldest(version: str, enough: bool) -> None:
    assert build.is_new_enough(version) is enough


def test_key_changes_with_source_and_go_version_only() -> None:
    sources = {"go.mod": b"m", "go.sum": b"s", "main.go": b"x"}
    key = build.cache_key(sources, "go1.26.8")

    assert build.cache_key({**sources, "README": b"new"}, "go1.26.8") == key
    assert build.cache_key(sources, "go1.26.9") != key
    for name in sources:
        assert build.cache_key({**sources, name: b"changed"}, "go1.26.8") != key


def test_key_tells_moved_bytes_apart() -> None:
    one = build.cache_key({"a.go": b"xy", "b.go": b""}, "go1.26")

    assert one != build.cache_key({"a.go": b"x", "b.go": b"y"}, "go1.26")


def test_link_flags_stamp_the_versions_of_go_mod() -> None:
    flags = build.link_flags(GO_MOD)

    assert "-X k8s.io/component-base/version.gitVersion=v1.36.3" in flags
    assert "-X k8s.io/component-base/version.gitMajor=1" in flags
    assert "-X k8s.io/component-base/version.gitMinor=36" in flags
    assert "version.buildVersion=v0.0.0-20260827124520-eed52ebb66ad" in flags


def test_module_missing_in_go_mod_is_refused() -> None:
    with pytest.raises(PermanentError, match=r"no version of k8s\.io/kubernetes"):
        build.module_version("module x\n", "k8s.io/kubernetes")


@pytest.mark.parametrize(
    ("done", "elapsed_s", "line"),
    [
        (0, 0.0, "control plane: 0 of 3600 packages"),
        (900, 120.0, "control plane: 900 of 3600 packages, about 6 min left"),
        (3500, 300.0, "control plane: 3500 of 3600 packages, about 9 s left"),
        (3600, 400.0, "control plane: 3600 of 3600 packages, linking"),
    ],
)
def test_progress_says_how_much_is_left(done: int, elapsed_s: float, line: str) -> None:
    assert build.progress_line(done, 3600, elapsed_s) == line


@pytest.mark.parametrize(
    ("return_code", "output", "code", "kind"),
    [
        (-15, "", "controlplane-build-interrupted", TransientError),
        (1, "compile: signal: killed", "controlplane-build-interrupted", TransientError),
        (1, "write x: no space left on device", "disk-full", PermanentError),
        (1, "Get x: dial tcp: lookup y", "controlplane-download-failed", TransientError),
        (1, "x.go:1: syntax error", "controlplane-build-failed", PermanentError),
    ],
)
def test_failure_names_its_cause(
    return_code: int, output: str, code: str, kind: type[Exception]
) -> None:
    error = build.build_failure(return_code, [output], Path("/cache"))

    assert isinstance(error, kind)
    assert error.code == code
    assert output in error.message
