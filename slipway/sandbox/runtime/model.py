"""What the runtime knows of pods and containers: values that survive a restart as JSON."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class ContainerState(enum.Enum):
    """The states of CRI, with the numbers of its enum ContainerState."""

    CREATED = 0
    RUNNING = 1
    EXITED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """One pod sandbox.

    Args:
        id: 64 hex digits, chosen by the runtime.
        name: of the Kubernetes pod; with `uid`, `namespace` and `attempt` its CRI metadata.
        uid: of the Kubernetes pod.
        namespace: of the Kubernetes pod.
        attempt: how often the kubelet made a sandbox for this pod before.
        hostname: what the processes see; empty for the host's.
        log_directory: folder of the containers' logs.
        labels: as given.
        annotations: as given.
        runtime_handler: as given.
        address: on loopback; "127.0.0.1" for pods in the host's network.
        host_network: whether the pod asked for the host's network.
        created_at_ns: since 1970.
        ready: false once stopped; the address is free again then.
    """

    id: str
    name: str
    uid: str
    namespace: str
    attempt: int
    hostname: str = ""
    log_directory: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    runtime_handler: str = ""
    address: str = ""
    host_network: bool = False
    created_at_ns: int = 0
    ready: bool = True


@dataclass(frozen=True, slots=True)
class Mount:
    """One path of the host that the container sees at its own path."""

    host_path: str
    container_path: str
    readonly: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One container; `state` and what follows it change, through `dataclasses.replace`.

    Args:
        id: 64 hex digits, chosen by the runtime.
        pod_id: the sandbox it belongs to.
        name: of the container in its pod.
        attempt: how often the kubelet made it before.
        image: name as the kubelet gave it.
        user_image: name as the pod's author wrote it.
        image_id: digest of the image's config.
        image_ref: `repository@digest`, else the id.
        command: replaces the image's entrypoint when not empty.
        args: replaces the image's cmd when not empty.
        working_dir: replaces the image's when not empty.
        env: name and value, later ones win.
        mounts: in the order given.
        labels: as given.
        annotations: as given.
        log_path: below the pod's log folder.
        stop_signal: number of the signal that asks it to end; 0 for the image's.
        created_at_ns: since 1970; `started_at_ns` and `finished_at_ns` likewise, 0 for not yet.
        state: see ContainerState.
        exit_code: 128 + n when signal n ended it.
        reason: Completed, Error or StartError.
        message: what a person should read with it.
        keeper: process id of its keeper, 0 for none.
        keeper_ticks: the keeper's start time in clock ticks: process ids come round again.
        init: process id of the container's first process.
    """

    id: str
    pod_id: str
    name: str
    attempt: int
    image: str
    user_image: str = ""
    image_id: str = ""
    image_ref: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    env: tuple[tuple[str, str], ...] = ()
    mounts: tuple[Mount, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    log_path: str = ""
    stop_signal: int = 0
    created_at_ns: int = 0
    state: ContainerState = ContainerState.CREATED
    started_at_ns: int = 0
    finished_at_ns: int = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    keeper: int = 0
    keeper_ticks: int = 0
    init: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One unpacked image.

    Args:
        id: `sha256:…` of its config.
        tags: `registry/repository:tag`, those that were pulled.
        digests: `registry/repository@sha256:…`, those that were pulled.
        layers: digests of the layer blobs, lowest first.
        size_bytes: of the unpacked layers.
        entrypoint: of the config, like what follows.
        cmd: default arguments.
        env: `NAME=value` lines.
        working_dir: "" for "/".
        stop_signal: "" or a name such as SIGTERM, or a number.
        user: as written in the config; not enforced.
    """

    id: str
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    size_bytes: int = 0
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    stop_signal: str = ""
    user: str = ""


def to_json(value: Pod | Container | Image) -> dict[str, Any]:
    """Return the value as what `json` can write."""
    fields = dataclasses.asdict(value)
    if isinstance(value, Container):
        fields["state"] = value.state.name
    return fields


def pod_from_json(fields: Mapping[str, Any]) -> Pod:
    """Return the pod that `to_json` described."""
    return Pod(**fields)


def container_from_json(fields: Mapping[str, Any]) -> Container:
    """Return the container that `to_json` described."""
    changed = {
        "command": tuple(fields["command"]),
        "args": tuple(fields["args"]),
        "env": tuple((name, value) for name, value in fields["env"]),
        "mounts": tuple(Mount(**mount) for mount in fields["mounts"]),
        "state": ContainerState[fields["state"]],
    }
    return Container(**{**fields, **changed})


def image_from_json(fields: Mapping[str, Any]) -> Image:
    """Return the image that `to_json` described."""
    lists = ("tags", "digests", "layers", "entrypoint", "cmd", "env")
    return Image(**{**fields, **{name: tuple(fields[name]) for name in lists}})
