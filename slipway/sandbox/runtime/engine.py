"""What the CRI verbs do, on values; `service.py` translates them from and to gRPC."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from slipway.core.errors import InputError, PermanentError, SlipwayError
from slipway.sandbox.runtime.bare import bare
from slipway.sandbox.runtime.images import ImageStore
from slipway.sandbox.runtime.keeper import (
    Executed,
    Keeper,
    Started,
    end_unstarted,
    execute,
    find_started,
    probe,
    read_ending,
    start_keeper,
    start_ticks,
)
from slipway.sandbox.runtime.model import Container, ContainerState, Image, Pod
from slipway.sandbox.runtime.pod_addresses import next_address
from slipway.sandbox.runtime.process import Host, process_of
from slipway.sandbox.runtime.store import Store

_KILL_TIMEOUT_S = 10.0
_START_FAILED = 128
_KILLED = 128 + signal.SIGKILL
_REOPEN_TIMEOUT_S = 2.0


class Engine:
    """The pods, containers and images of one node; used from one event loop.

    Args:
        root: folder for everything; survives restarts.
        network: addresses of the node's pods.
        host: what containers get from this machine.
        registry: `HOST:PORT` of the only registry.
        keeper_environment: environment of the keepers.
    """

    def __init__(
        self,
        root: Path,
        network: IPv4Network,
        host: Host,
        registry: str,
        keeper_environment: Mapping[str, str],
    ) -> None:
        """Load the state below `root`."""
        self.store = Store(root)
        self.images = ImageStore(root / "images", registry)
        self.forbidden = self._probe(root)
        self._network = network
        self._host = host
        self._environment = keeper_environment
        self._keepers: dict[str, Keeper] = {}
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._pulling = asyncio.Lock()

    @staticmethod
    def _probe(root: Path) -> str:
        folder = root / "probe"
        folder.mkdir(exist_ok=True)
        return probe(folder)

    # -- life of the runtime itself --------------------------------------------------------------

    def adopt(self) -> None:
        """Take over the containers that outlived an earlier runtime; the others have exited."""
        for pod in self._pods():
            # The node has other addresses than before: the kubelet makes these pods anew.
            if not pod.host_network and IPv4Address(pod.address) not in self._network:
                self.store.save_pod(replace(pod, ready=False))
        for container in tuple(self.store.containers.values()):
            if container.state is ContainerState.CREATED:
                self._adopt_unrecorded(container)
            elif container.state is ContainerState.RUNNING:
                self._adopt_running(container.id, container.keeper, container.keeper_ticks)

    def _adopt_running(self, container_id: str, keeper: int, ticks: int) -> None:
        try:
            watched = self._watch(container_id, keeper)
        except ProcessLookupError:
            self._ended(container_id)
            return
        # Asked after the pidfd is open: from here on the number can be nobody else's.
        if start_ticks(keeper) == ticks != 0:
            self._keepers[container_id] = watched
        else:
            watched.forget()
            self._ended(container_id)

    def _adopt_unrecorded(self, container: Container) -> None:
        """Take over a container whose start the earlier runtime did not live to record."""
        folder = self.store.folder(container.id)
        started = find_started(folder)
        if started is not None:
            running = _running_state(container, started)
            self.store.save_container(running)
            self._adopt_running(running.id, running.keeper, running.keeper_ticks)
        elif read_ending(folder) is not None or end_unstarted(folder):
            self._ended(container.id)

    async def stop_everything(self, grace_s: float) -> None:
        """End every container; pods are not ready any more. For the orderly end of a sandbox."""
        await asyncio.gather(*(self.stop_pod(pod.id, grace_s) for pod in self._pods()))

    def close(self) -> None:
        """Give up the folder; containers that run keep running."""
        for keeper in self._keepers.values():
            keeper.forget()
        self.store.close()

    # -- pods ------------------------------------------------------------------------------------

    def run_pod(self, pod: Pod) -> Pod:
        """Give a pod its id and address.

        Args:
            pod: its id, address and time are chosen here.

        Raises:
            TransientError: no address is free.
        """
        address = "127.0.0.1"
        if not pod.host_network:
            taken = {other.address for other in self._pods() if other.ready}
            address = next_address(self._network, taken, self.store.last_address)
            self.store.save_last_address(address)
        fresh = replace(
            pod, id=secrets.token_hex(32), address=address, created_at_ns=time.time_ns()
        )
        self.store.save_pod(fresh)
        return fresh

    def pod(self, pod_id: str) -> Pod:
        """Return a pod.

        Raises:
            PermanentError: code `pod-not-found`.
        """
        if pod_id not in self.store.pods:
            raise _not_found("pod", pod_id)
        return self.store.pods[pod_id]

    async def stop_pod(self, pod_id: str, grace_s: float = 0) -> None:
        """End every process of a pod and release its address; idempotent."""
        pod = self.store.pods.get(pod_id)
        if pod is None:
            return
        await asyncio.gather(
            *(self.stop_container(container.id, grace_s) for container in self._of(pod_id))
        )
        if pod_id in self.store.pods:
            self.store.save_pod(replace(pod, ready=False))

    async def remove_pod(self, pod_id: str) -> None:
        """Forget a pod with its containers, ending them first; idempotent."""
        await self.stop_pod(pod_id)
        for container in self._of(pod_id):
            await self.remove_container(container.id)
        self.store.drop_pod(pod_id)

    def _pods(self) -> tuple[Pod, ...]:
        return tuple(self.store.pods.values())

    def _of(self, pod_id: str) -> tuple[Container, ...]:
        everything = tuple(self.store.containers.values())
        return tuple(container for container in everything if container.pod_id == pod_id)

    # -- containers ------------------------------------------------------------------------------

    def create_container(self, container: Container) -> Container:
        """Record a container that can be started.

        Args:
            container: its id, image id and time are chosen here.

        Raises:
            PermanentError: unknown pod or image.
            InputError: it has no command.
        """
        pod = self.pod(container.pod_id)
        if not pod.ready:
            raise PermanentError(
                f"pod {pod.namespace}/{pod.name} is stopped",
                code="pod-stopped",
                hint="the kubelet makes a new sandbox",
            )
        image = self.image(container.image)
        fresh = replace(
            container,
            id=secrets.token_hex(32),
            image_id=image.id,
            image_ref=image.digests[0] if image.digests else image.id,
            created_at_ns=time.time_ns(),
        )
        folder = self.store.folder(fresh.id)
        tree = self.images.tree(image)
        process = process_of(fresh, pod=pod, image=image, tree=tree, folder=folder, host=self._host)
        fresh = replace(fresh, stop_signal=process.stop)
        # The record last: a runtime killed before it finds no half-made container.
        (folder / "scratch").mkdir(parents=True)
        folder.chmod(0o700)
        if self.forbidden:
            process = bare(process, folder / "scratch" / "root", self._environment)
        (folder / "spec.json").write_text(json.dumps(asdict(process)))
        self.store.save_container(fresh)
        return fresh

    def container(self, container_id: str) -> Container:
        """Return a container.

        Raises:
            PermanentError: code `container-not-found`.
        """
        if container_id not in self.store.containers:
            raise _not_found("container", container_id)
        return self.store.containers[container_id]

    async def start_container(self, container_id: str) -> None:
        """Start a created container; returns when its command runs.

        Raises:
            PermanentError: unknown, started before, or its command cannot run.
        """
        container = self.container(container_id)
        if container.state is not ContainerState.CREATED or container_id in self._starting:
            raise PermanentError(
                f"container {container.name} was started before",
                code="container-started",
                hint="create a new one",
            )
        task = asyncio.create_task(self._start(container))
        self._starting[container_id] = task
        try:
            await asyncio.shield(task)
        finally:
            if task.done():
                self._starting.pop(container_id, None)
            else:
                task.add_done_callback(lambda _: self._starting.pop(container_id, None))

    async def _start(self, container: Container) -> None:
        pod = self.pod(container.pod_id)
        if pod.log_directory and container.log_path:
            log = Path(pod.log_directory) / container.log_path
            log.parent.mkdir(parents=True, exist_ok=True)
        try:
            started = await start_keeper(self.store.folder(container.id), self._environment)
        except SlipwayError as error:
            now_ns = time.time_ns()
            failed = replace(
                container,
                state=ContainerState.EXITED,
                exit_code=_START_FAILED,
                reason="StartError",
                message=error.message,
                started_at_ns=now_ns,
                finished_at_ns=now_ns,
            )
            self.store.save_container(failed)
            raise
        self.store.save_container(_running_state(container, started))
        self._keepers[container.id] = self._watch(container.id, started.keeper)

    def _watch(self, container_id: str, keeper: int) -> Keeper:
        return Keeper(keeper, lambda: self._ended(container_id))

    def _ended(self, container_id: str) -> None:
        self._keepers.pop(container_id, None)
        container = self.store.containers.get(container_id)
        if container is None:
            return
        ending = read_ending(self.store.folder(container_id))
        code = ending.exit_code if ending else _KILLED
        error = ending.error if ending else "its keeper was killed"
        reason = "Completed" if code == 0 else "Error"
        changed = replace(
            container,
            state=ContainerState.EXITED,
            exit_code=code,
            started_at_ns=ending.started_at_ns if ending else container.started_at_ns,
            finished_at_ns=ending.finished_at_ns if ending else time.time_ns(),
            reason="StartError" if ending and error else reason,
            message=error,
            keeper=0,
            keeper_ticks=0,
            init=0,
        )
        self.store.save_container(changed)

    async def stop_container(self, container_id: str, grace_s: float) -> None:
        """Ask a container to end, and kill it after the grace; idempotent.

        Args:
            container_id: an unknown one counts as stopped.
            grace_s: 0 kills at once.

        Raises:
            PermanentError: it does not end even when killed.
        """
        starting = self._starting.get(container_id)
        if starting is not None:
            await asyncio.wait([starting])
        keeper = self._keepers.get(container_id)
        if keeper is None:
            return
        if grace_s > 0:
            keeper.send(signal.SIGTERM)
            if await _within(keeper.ended, grace_s):
                return
        keeper.send(signal.SIGUSR2)
        if await _within(keeper.ended, _KILL_TIMEOUT_S):
            return
        keeper.send(signal.SIGKILL)
        if not await _within(keeper.ended, _KILL_TIMEOUT_S):
            raise PermanentError(
                f"container {container_id} does not end",
                code="container-unkillable",
                hint="a process in uninterruptible sleep; see its state with ps",
            )

    async def remove_container(self, container_id: str) -> None:
        """Forget a container with its files, ending it first; idempotent."""
        await self.stop_container(container_id, 0)
        self.store.drop_container(container_id)

    async def execute(self, container_id: str, args: tuple[str, ...], timeout_s: float) -> Executed:
        """Run one command inside a running container.

        Raises:
            PermanentError: it is not running.
            TimeoutError: the command took longer than `timeout_s` (0 for no limit).
        """
        container = self._running(container_id)
        if not args:
            raise InputError("exec without a command", code="command-missing", hint="name one")
        folder = self.store.folder(container_id)
        return await asyncio.to_thread(
            execute, folder, args, container.keeper, container.init, timeout_s
        )

    async def reopen_log(self, container_id: str) -> None:
        """Have the keeper open its log again, and wait until the file is there.

        Raises:
            PermanentError: it is not running, or its log does not appear.
        """
        container = self._running(container_id)
        log = self.log_path(container)
        self._keepers[container_id].send(signal.SIGUSR1)
        deadline_s = time.monotonic() + _REOPEN_TIMEOUT_S
        while log and not Path(log).exists():
            if time.monotonic() > deadline_s:
                raise PermanentError(
                    f"log {log} was not opened again",
                    code="log-not-reopened",
                    hint="is its folder still there?",
                )
            await asyncio.sleep(0.005)

    def log_path(self, container: Container) -> str:
        """Return the whole path of a container's log; "" for none."""
        pod = self.store.pods.get(container.pod_id)
        if pod is None or not container.log_path:
            return ""
        return str(Path(pod.log_directory) / container.log_path)

    def _running(self, container_id: str) -> Container:
        container = self.container(container_id)
        if container.state is not ContainerState.RUNNING:
            raise PermanentError(
                f"container {container.name} is not running",
                code="container-not-running",
                hint=f"its state is {container.state.name}",
            )
        return container

    # -- images ----------------------------------------------------------------------------------

    def image(self, name: str) -> Image:
        """Return an image that is here.

        Raises:
            PermanentError: code `image-not-found`.
            InputError: not an image name.
        """
        image = self.images.find(name)
        if image is None:
            raise _not_found("image", name)
        return image

    async def pull(self, name: str) -> Image:
        """Fetch an image; see ImageStore.pull."""
        async with self._pulling:
            return await asyncio.to_thread(self.images.pull, name)

    async def remove_image(self, name: str) -> None:
        """Forget an image; idempotent.

        Raises:
            PermanentError: a container still needs its files.
        """
        image = self.images.find(name)
        if image is None:
            return
        users = [c.name for c in self.store.containers.values() if c.image_id == image.id]
        if users:
            raise PermanentError(
                f"image {name} is in use by container {users[0]}",
                code="image-in-use",
                hint="remove the container first",
            )
        async with self._pulling:
            await asyncio.to_thread(self.images.remove, image.id)


def _running_state(container: Container, started: Started) -> Container:
    return replace(
        container,
        state=ContainerState.RUNNING,
        started_at_ns=started.started_at_ns,
        keeper=started.keeper,
        keeper_ticks=start_ticks(started.keeper),
        init=started.init,
    )


async def _within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True


def _not_found(kind: str, name: str) -> PermanentError:
    return PermanentError(
        f"{kind} {name} does not exist", code=f"{kind}-not-found", hint="list what there is"
    )
