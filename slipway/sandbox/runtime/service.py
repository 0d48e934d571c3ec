"""CRI over gRPC: messages in, values to the engine, messages out.

Source of every rule: the comments in `api.proto` (k8s.io/cri-api v0.36.3). Calls that are not here
answer UNIMPLEMENTED by themselves (streaming lists, container events, checkpoints).
"""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc

from slipway.core.errors import InputError, PermanentError, SlipwayError, TransientError
from slipway.sandbox.runtime import translate
from slipway.sandbox.runtime.engine import Engine
from slipway.sandbox.runtime.messages import cri
from slipway.sandbox.runtime.model import Container, Mount
from slipway.sandbox.runtime.usage import usage_of

RUNTIME_NAME = "slipway"
RUNTIME_VERSION = "0.1.0"
_INODES_PER_IMAGE = 1  # not counted: the sandbox evicts nothing for want of inodes
_STREAMING = (
    "the sandbox has no streaming server: kubectl exec, attach and port-forward are not supported "
    "(exec probes, kubectl logs and the API server's proxy are)"
)

Verb = Callable[[Any], Awaitable[Any]]


class RuntimeService:
    """`runtime.v1.RuntimeService` for one engine."""

    def __init__(self, engine: Engine) -> None:
        """Keep the engine."""
        self._engine = engine

    def handler(self) -> Any:
        """Return the generic handler for a `grpc.aio` server."""
        return _handler(
            "runtime.v1.RuntimeService",
            {
                "Version": self._version,
                "Status": self._status,
                "RuntimeConfig": self._runtime_config,
                "UpdateRuntimeConfig": _nothing("UpdateRuntimeConfig"),
                "RunPodSandbox": self._run_pod,
                "StopPodSandbox": self._stop_pod,
                "RemovePodSandbox": self._remove_pod,
                "PodSandboxStatus": self._pod_status,
                "ListPodSandbox": self._list_pods,
                "CreateContainer": self._create_container,
                "StartContainer": self._start_container,
                "StopContainer": self._stop_container,
                "RemoveContainer": self._remove_container,
                "ListContainers": self._list_containers,
                "ContainerStatus": self._container_status,
                "ExecSync": self._exec,
                "ReopenContainerLog": self._reopen_log,
                "Exec": _refuse_streaming,
                "Attach": _refuse_streaming,
                "PortForward": _refuse_streaming,
                "UpdateContainerResources": _nothing("UpdateContainerResources"),
                "UpdatePodSandboxResources": _nothing("UpdatePodSandboxResources"),
                "ContainerStats": self._container_stats,
                "ListContainerStats": self._list_container_stats,
                "ListPodSandboxStats": _nothing("ListPodSandboxStats"),
                "ListMetricDescriptors": _nothing("ListMetricDescriptors"),
                "ListPodSandboxMetrics": _nothing("ListPodSandboxMetrics"),
            },
        )

    async def _version(self, _: Any) -> Any:
        return cri.VersionResponse(
            version="0.1.0",  # of the kubelet's runtime API, as every runtime answers
            runtime_name=RUNTIME_NAME,
            runtime_version=RUNTIME_VERSION,
            runtime_api_version="v1",
        )

    async def _status(self, _: Any) -> Any:
        ready = cri.RuntimeCondition(type="RuntimeReady", status=True)
        network = cri.RuntimeCondition(type="NetworkReady", status=True)
        status = cri.RuntimeStatus(conditions=[ready, network])
        return cri.StatusResponse(status=status, runtime_handlers=[cri.RuntimeHandler(name="")])

    async def _runtime_config(self, _: Any) -> Any:
        driver = cri.CgroupDriver.Value("CGROUPFS")
        return cri.RuntimeConfigResponse(linux=cri.LinuxRuntimeConfiguration(cgroup_driver=driver))

    async def _run_pod(self, request: Any) -> Any:
        if request.runtime_handler:
            raise InputError(
                f"runtime handler {request.runtime_handler!r} is unknown",
                code="runtime-handler-unknown",
                hint="remove the pod's runtimeClassName: the sandbox has one kind of container",
            )
        pod = self._engine.run_pod(translate.pod_from(request.config, request.runtime_handler))
        return cri.RunPodSandboxResponse(pod_sandbox_id=pod.id)

    async def _stop_pod(self, request: Any) -> Any:
        await self._engine.stop_pod(request.pod_sandbox_id)
        return cri.StopPodSandboxResponse()

    async def _remove_pod(self, request: Any) -> Any:
        await self._engine.remove_pod(request.pod_sandbox_id)
        return cri.RemovePodSandboxResponse()

    async def _pod_status(self, request: Any) -> Any:
        pod = self._engine.pod(request.pod_sandbox_id)
        return cri.PodSandboxStatusResponse(status=translate.pod_status(pod))

    async def _list_pods(self, request: Any) -> Any:
        pods = self._engine.store.pods.values()
        chosen = [pod for pod in pods if translate.pod_matches(pod, request.filter)]
        return cri.ListPodSandboxResponse(items=[translate.pod_item(pod) for pod in chosen])

    async def _create_container(self, request: Any) -> Any:
        mounts = tuple(self._mount(mount) for mount in request.config.mounts)
        asked = translate.container_from(request.pod_sandbox_id, request.config, mounts)
        return cri.CreateContainerResponse(container_id=self._engine.create_container(asked).id)

    def _mount(self, mount: Any) -> Mount:
        if not mount.HasField("image"):
            return Mount(mount.host_path, mount.container_path, mount.readonly)
        image = self._engine.image(mount.image.image)
        path = self._engine.images.tree(image) / mount.image_sub_path
        if ".." in Path(mount.image_sub_path).parts or not path.is_dir():
            raise InputError(
                f"image {mount.image.image} has no folder {mount.image_sub_path!r}",
                code="image-path-wrong",
                hint="see the volume's subPath",
            )
        return Mount(str(path), mount.container_path, readonly=True)

    async def _start_container(self, request: Any) -> Any:
        await self._engine.start_container(request.container_id)
        return cri.StartContainerResponse()

    async def _stop_container(self, request: Any) -> Any:
        await self._engine.stop_container(request.container_id, request.timeout)
        return cri.StopContainerResponse()

    async def _remove_container(self, request: Any) -> Any:
        await self._engine.remove_container(request.container_id)
        return cri.RemoveContainerResponse()

    def _containers(self, wanted: Any) -> list[Container]:
        containers = self._engine.store.containers.values()
        return [one for one in containers if translate.container_matches(one, wanted)]

    async def _list_containers(self, request: Any) -> Any:
        chosen = self._containers(request.filter)
        return cri.ListContainersResponse(
            containers=[translate.container_item(container) for container in chosen]
        )

    async def _container_status(self, request: Any) -> Any:
        container = self._engine.container(request.container_id)
        status = translate.container_status(container, self._engine.log_path(container))
        return cri.ContainerStatusResponse(status=status)

    async def _exec(self, request: Any) -> Any:
        done = await self._engine.execute(request.container_id, tuple(request.cmd), request.timeout)
        return cri.ExecSyncResponse(
            stdout=done.stdout, stderr=done.stderr, exit_code=done.exit_code
        )

    async def _reopen_log(self, request: Any) -> Any:
        await self._engine.reopen_log(request.container_id)
        return cri.ReopenContainerLogResponse()

    async def _container_stats(self, request: Any) -> Any:
        container = self._engine.container(request.container_id)
        stats = translate.container_stats(container, usage_of(container.init), time.time_ns())
        return cri.ContainerStatsResponse(stats=stats)

    async def _list_container_stats(self, request: Any) -> Any:
        now_ns = time.time_ns()
        running = [one for one in self._containers(request.filter) if translate.is_running(one)]
        return cri.ListContainerStatsResponse(
            stats=[translate.container_stats(one, usage_of(one.init), now_ns) for one in running]
        )


class ImageService:
    """`runtime.v1.ImageService` for one engine.

    Args:
        engine: holds the images.
        full_disk: while this file exists nothing new fits (`slipway.sandbox.faults`).
    """

    def __init__(self, engine: Engine, full_disk: Path | None = None) -> None:
        """Keep the engine."""
        self._engine = engine
        self._full_disk = full_disk

    def handler(self) -> Any:
        """Return the generic handler for a `grpc.aio` server."""
        return _handler(
            "runtime.v1.ImageService",
            {
                "ListImages": self._list,
                "ImageStatus": self._status,
                "PullImage": self._pull,
                "RemoveImage": self._remove,
                "ImageFsInfo": self._filesystem,
            },
        )

    async def _list(self, request: Any) -> Any:
        name = request.filter.image.image
        if not name:
            images = self._engine.images.all()
        else:
            found = self._engine.images.find(name)
            images = () if found is None else (found,)
        return cri.ListImagesResponse(images=[translate.image_message(image) for image in images])

    async def _status(self, request: Any) -> Any:
        image = self._engine.images.find(request.image.image)
        if image is None:
            return cri.ImageStatusResponse()
        return cri.ImageStatusResponse(image=translate.image_message(image))

    async def _pull(self, request: Any) -> Any:
        is_full = self._full_disk is not None and self._full_disk.exists()
        if is_full and self._engine.images.find(request.image.image) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._engine.images.root))
        image = await self._engine.pull(request.image.image)
        return cri.PullImageResponse(image_ref=image.id)

    async def _remove(self, request: Any) -> Any:
        await self._engine.remove_image(request.image.image)
        return cri.RemoveImageResponse()

    async def _filesystem(self, _: Any) -> Any:
        images = self._engine.images
        usage = cri.FilesystemUsage(
            timestamp=time.time_ns(),
            fs_id=cri.FilesystemIdentifier(mountpoint=str(images.root)),
            used_bytes=cri.UInt64Value(value=images.used_bytes()),
            inodes_used=cri.UInt64Value(value=_INODES_PER_IMAGE * len(images.all())),
        )
        return cri.ImageFsInfoResponse(image_filesystems=[usage], container_filesystems=[usage])


def _handler(service: str, verbs: dict[str, Verb]) -> Any:
    methods = {
        name: grpc.unary_unary_rpc_method_handler(
            _answering(name, verb),
            request_deserializer=getattr(cri, f"{name}Request").FromString,
            response_serializer=getattr(cri, f"{name}Response").SerializeToString,
        )
        for name, verb in verbs.items()
    }
    return grpc.method_handlers_generic_handler(service, methods)


def _answering(name: str, verb: Verb) -> Callable[[Any, Any], Awaitable[Any]]:
    """Wrap a verb: errors become gRPC codes, with one line that the kubelet shows to people."""

    async def answer(request: Any, context: Any) -> Any:
        try:
            return await verb(request)
        except TimeoutError as error:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, str(error))
        except NotImplementedError as error:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, str(error))
        except SlipwayError as error:
            code = status_code(error)
            if code is not grpc.StatusCode.NOT_FOUND:
                _log(f"{name}: {error.message} [{error.code}]")
            await context.abort(code, f"{error.message}; {error.hint}")
        except asyncio.CancelledError:
            raise
        except OSError as error:
            _log(f"{name}: {error}")
            await context.abort(grpc.StatusCode.INTERNAL, f"{name}: {error}")

    return answer


def _log(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def status_code(error: SlipwayError) -> Any:
    """Return the gRPC code of an error."""
    if error.code.endswith("-not-found"):
        return grpc.StatusCode.NOT_FOUND
    if error.code == "digest-mismatch":
        return grpc.StatusCode.DATA_LOSS
    if isinstance(error, InputError):
        return grpc.StatusCode.INVALID_ARGUMENT
    if isinstance(error, TransientError):
        return grpc.StatusCode.UNAVAILABLE
    if isinstance(error, PermanentError):
        return grpc.StatusCode.FAILED_PRECONDITION
    return grpc.StatusCode.ABORTED


def _nothing(name: str) -> Verb:
    """Return a verb that does nothing: the sandbox sets no resource limits and keeps no metrics."""
    response = getattr(cri, f"{name}Response")

    async def verb(_: Any) -> Any:
        return response()

    return verb


async def _refuse_streaming(_: Any) -> Any:
    raise NotImplementedError(_STREAMING)
