"""Pure: which process a container is (arguments, environment, folders, signal)."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slipway.core.errors import InputError
from slipway.sandbox.runtime.model import Container, Image, Mount, Pod

_HOME = "/tmp"  # noqa: S108 - the container's own, not this machine's
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Host:
    """What containers get from this machine.

    Args:
        system: folders such as /usr and /etc, each at its own path.
        prefix: the Python interpreter's folder when it lies outside of `system`, else "".
        binaries: the interpreter's bin folder, first in every PATH.
        hidden: folders of installed packages, emptied for containers.
        api: `HOST:PORT` of the API server, in place of the cluster address nothing can dial.
    """

    system: tuple[str, ...]
    prefix: str
    binaries: str
    hidden: tuple[str, ...]
    api: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """What a container's keeper starts; written as its `spec.json`.

    `bare` is the folder that stands for its root where there are no namespaces, else "".
    """

    scratch: str
    tree: str
    system: tuple[str, ...]
    prefix: str
    hidden: tuple[str, ...]
    mounts: tuple[tuple[str, str, bool], ...]
    hostname: str
    args: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    log: str
    stop: int
    bare: str = ""


def process_of(
    container: Container, *, pod: Pod, image: Image, tree: Path, folder: Path, host: Host
) -> Process:
    """Return the process of a container.

    Args:
        container: what the kubelet asked for.
        pod: its sandbox.
        image: the image it runs.
        tree: the image's files.
        folder: the container's own folder.
        host: what this machine gives.

    Raises:
        InputError: neither image nor container names a command, or the stop signal is unknown.
    """
    log = str(Path(pod.log_directory) / container.log_path) if container.log_path else ""
    return Process(
        scratch=str(folder / "scratch"),
        tree=str(tree),
        system=host.system,
        prefix=host.prefix,
        hidden=host.hidden,
        mounts=tuple(_mount(mount) for mount in container.mounts),
        hostname="" if pod.host_network else pod.hostname,
        args=arguments(container, image),
        env=environment(container, image, pod, host),
        cwd=container.working_dir or image.working_dir or "/",
        log=log,
        stop=container.stop_signal or stop_signal(image.stop_signal),
    )


def _mount(mount: Mount) -> tuple[str, str, bool]:
    return (os.path.realpath(mount.host_path), mount.container_path, mount.readonly)


def arguments(container: Container, image: Image) -> tuple[str, ...]:
    """Return the argument list (Kubernetes, "Define a Command and Arguments for a Container").

    A command replaces entrypoint and cmd of the image; arguments alone replace its cmd.

    Raises:
        InputError: there is no command at all.
    """
    if container.command:
        args = container.command + container.args
    else:
        args = image.entrypoint + (container.args or image.cmd)
    if not args:
        raise InputError(
            f"container {container.name}: no command specified, and its image has none",
            code="command-missing",
            hint="set command in the container, or Entrypoint in the image",
        )
    return args


def environment(container: Container, image: Image, pod: Pod, host: Host) -> dict[str, str]:
    """Return the whole environment: nothing of the runtime's own leaks in (no proxies)."""
    env = {"PATH": _DEFAULT_PATH, "HOME": _HOME, "PYTHONNOUSERSITE": "1"}
    if not pod.host_network and pod.hostname:
        env["HOSTNAME"] = pod.hostname
    env |= dict(_split(image.env)) | dict(container.env)
    env["PATH"] = f"{host.binaries}:{env['PATH']}"
    address, _, port = host.api.rpartition(":")
    known = {
        "KUBERNETES_SERVICE_HOST": address,
        "KUBERNETES_SERVICE_PORT": port,
        "KUBERNETES_SERVICE_PORT_HTTPS": port,
    }
    env |= {name: value for name, value in known.items() if name in env}
    return env


def _split(lines: Sequence[str]) -> list[tuple[str, str]]:
    return [(line.partition("=")[0], line.partition("=")[2]) for line in lines]


def stop_signal(name: str) -> int:
    """Return the number of an image's stop signal; SIGTERM when it names none.

    Raises:
        InputError: no such signal.
    """
    if not name:
        return signal.SIGTERM
    if name.isdigit() and 0 < int(name) < signal.NSIG:
        return int(name)
    full = name if name.startswith("SIG") else f"SIG{name}"
    if full in signal.Signals.__members__:
        return signal.Signals[full]
    if full.startswith("SIGRTMIN+") and full[9:].isdigit():
        return signal.SIGRTMIN + int(full[9:])
    raise InputError(
        f"the image's stop signal {name!r} is unknown",
        code="stop-signal-unknown",
        hint="write a name such as SIGTERM",
    )
