"""Pure: CRI messages from and to the runtime's values."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

from slipway.core.errors import InputError
from slipway.sandbox.runtime.messages import cri
from slipway.sandbox.runtime.model import Container, ContainerState, Image, Mount, Pod
from slipway.sandbox.runtime.usage import Usage


def pod_from(config: Any, handler: str) -> Pod:
    """Return the pod a PodSandboxConfig describes; id, address and time are still empty."""
    network = config.linux.security_context.namespace_options.network
    return Pod(
        id="",
        name=config.metadata.name,
        uid=config.metadata.uid,
        namespace=config.metadata.namespace,
        attempt=config.metadata.attempt,
        hostname=config.hostname,
        log_directory=config.log_directory,
        labels=dict(config.labels),
        annotations=dict(config.annotations),
        runtime_handler=handler,
        host_network=network == cri.NamespaceMode.Value("NODE"),
    )


def container_from(pod_id: str, config: Any, mounts: tuple[Mount, ...]) -> Container:
    """Return the container a ContainerConfig describes; id, image id and time are still empty.

    Args:
        pod_id: its sandbox.
        config: the message.
        mounts: those of the message, images among them resolved to folders.

    Raises:
        InputError: a variable is not text.
    """
    return Container(
        id="",
        pod_id=pod_id,
        name=config.metadata.name,
        attempt=config.metadata.attempt,
        image=config.image.image,
        user_image=config.image.user_specified_image,
        command=tuple(config.command),
        args=tuple(config.args),
        working_dir=config.working_dir,
        env=tuple((pair.key, _text(pair.key, pair.value)) for pair in config.envs),
        mounts=mounts,
        labels=dict(config.labels),
        annotations=dict(config.annotations),
        log_path=config.log_path,
        stop_signal=_signal_number(config.stop_signal),
    )


def _text(name: str, value: bytes | str) -> str:
    if isinstance(value, str):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"environment variable {name} is not UTF-8",
            code="environment-not-text",
            hint="mount it as a file",
        ) from error


def _signal_number(value: int) -> int:
    """Return the number of a CRI `Signal`; 0 for RUNTIME_DEFAULT."""
    name = cri.Signal.Name(value)
    if name in signal.Signals.__members__:
        return signal.Signals[name]
    for prefix, sign, base in (
        ("SIGRTMINPLUS", 1, signal.SIGRTMIN),
        ("SIGRTMAXMINUS", -1, signal.SIGRTMAX),
    ):
        if name.startswith(prefix):
            return base + sign * int(name.removeprefix(prefix))
    return 0


_SIGNALS = {_signal_number(value): value for value in reversed(cri.Signal.values()) if value}
"""The CRI `Signal` of a number; of two names for one number the first."""


def _pod_metadata(pod: Pod) -> Any:
    return cri.PodSandboxMetadata(
        name=pod.name, uid=pod.uid, namespace=pod.namespace, attempt=pod.attempt
    )


def _pod_state(pod: Pod) -> Any:
    return cri.PodSandboxState.Value("SANDBOX_READY" if pod.ready else "SANDBOX_NOTREADY")


def pod_item(pod: Pod) -> Any:
    """Return the pod as one item of ListPodSandbox."""
    return cri.PodSandbox(
        id=pod.id,
        metadata=_pod_metadata(pod),
        state=_pod_state(pod),
        created_at=pod.created_at_ns,
        labels=pod.labels,
        annotations=pod.annotations,
        runtime_handler=pod.runtime_handler,
    )


def pod_status(pod: Pod) -> Any:
    """Return the pod as PodSandboxStatus; a stopped one has no address any more."""
    network = "NODE" if pod.host_network else "POD"
    options = cri.NamespaceOption(network=cri.NamespaceMode.Value(network))
    return cri.PodSandboxStatus(
        id=pod.id,
        metadata=_pod_metadata(pod),
        state=_pod_state(pod),
        created_at=pod.created_at_ns,
        network=cri.PodSandboxNetworkStatus(ip=pod.address if pod.ready else ""),
        linux=cri.LinuxPodSandboxStatus(namespaces=cri.Namespace(options=options)),
        labels=pod.labels,
        annotations=pod.annotations,
        runtime_handler=pod.runtime_handler,
    )


def _container_metadata(container: Container) -> Any:
    return cri.ContainerMetadata(name=container.name, attempt=container.attempt)


def _image_spec(container: Container) -> Any:
    name = container.user_image or container.image
    return cri.ImageSpec(image=name, user_specified_image=container.user_image)


def container_item(container: Container) -> Any:
    """Return the container as one item of ListContainers."""
    return cri.Container(
        id=container.id,
        pod_sandbox_id=container.pod_id,
        metadata=_container_metadata(container),
        image=_image_spec(container),
        image_ref=container.image_ref,
        image_id=container.image_id,
        state=container.state.value,
        created_at=container.created_at_ns,
        labels=container.labels,
        annotations=container.annotations,
    )


def container_status(container: Container, log_path: str) -> Any:
    """Return the container as ContainerStatus.

    Args:
        container: the value.
        log_path: the whole path of its log.
    """
    return cri.ContainerStatus(
        id=container.id,
        metadata=_container_metadata(container),
        state=container.state.value,
        created_at=container.created_at_ns,
        started_at=container.started_at_ns,
        finished_at=container.finished_at_ns,
        exit_code=container.exit_code,
        image=_image_spec(container),
        image_ref=container.image_ref,
        image_id=container.image_id,
        reason=container.reason,
        message=container.message,
        labels=container.labels,
        annotations=container.annotations,
        mounts=[
            cri.Mount(
                container_path=mount.container_path,
                host_path=mount.host_path,
                readonly=mount.readonly,
            )
            for mount in container.mounts
        ],
        log_path=log_path,
        stop_signal=_SIGNALS.get(container.stop_signal, 0),
    )


def container_stats(container: Container, usage: Usage, now_ns: int) -> Any:
    """Return what a container uses as ContainerStats."""
    return cri.ContainerStats(
        attributes=cri.ContainerAttributes(
            id=container.id,
            metadata=_container_metadata(container),
            labels=container.labels,
            annotations=container.annotations,
        ),
        cpu=cri.CpuUsage(
            timestamp=now_ns, usage_core_nano_seconds=cri.UInt64Value(value=usage.cpu_ns)
        ),
        memory=cri.MemoryUsage(
            timestamp=now_ns,
            working_set_bytes=cri.UInt64Value(value=usage.resident_bytes),
            rss_bytes=cri.UInt64Value(value=usage.resident_bytes),
        ),
    )


def image_message(image: Image) -> Any:
    """Return the image; a numeric user as `uid`: the kubelet checks runAsNonRoot by it."""
    user = image.user.partition(":")[0]
    return cri.Image(
        id=image.id,
        repo_tags=image.tags,
        repo_digests=image.digests,
        size=max(image.size_bytes, 1),  # the kubelet takes 0 for an answer without a size
        uid=cri.Int64Value(value=int(user)) if user.isdigit() else None,
        username="" if user.isdigit() else user,
    )


def pod_matches(pod: Pod, wanted: Any) -> bool:
    """Say whether a pod passes a PodSandboxFilter: every part that is set must hold."""
    return (
        (not wanted.id or pod.id == wanted.id)
        and (not wanted.HasField("state") or _pod_state(pod) == wanted.state.state)
        and _labels_match(pod.labels, wanted.label_selector)
    )


def container_matches(container: Container, wanted: Any) -> bool:
    """Say whether a container passes a ContainerFilter or ContainerStatsFilter."""
    has_state = "state" in wanted.DESCRIPTOR.fields_by_name and wanted.HasField("state")
    return (
        (not wanted.id or container.id == wanted.id)
        and (not wanted.pod_sandbox_id or container.pod_id == wanted.pod_sandbox_id)
        and (not has_state or container.state.value == wanted.state.state)
        and _labels_match(container.labels, wanted.label_selector)
    )


def is_running(container: Container) -> bool:
    """Say whether the container runs."""
    return container.state is ContainerState.RUNNING


def _labels_match(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    return all(labels.get(name) == value for name, value in selector.items())
