"""What the runtime's contract tests need: a tiny OCI registry, layers, and a CRI client."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc

from slipway.sandbox.runtime.messages import cri

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
MARKER = "SLIPWAY_SANDBOX_HOME"
RUNTIME = "slipway.sandbox.runtime"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Link:
    target: str
    hard: bool = False


@dataclass(frozen=True, slots=True)
class Executable:
    content: bytes


def archive(entries: Mapping[str, bytes | Link | Executable | None]) -> bytes:
    """Return a tar of files (bytes), executables, links and folders (None), in the order given."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.mode = 0o755 if content is None or isinstance(content, Executable) else 0o644
            data = content.content if isinstance(content, Executable) else content
            if data is None:
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            elif isinstance(data, Link):
                info.type = tarfile.LNKTYPE if data.hard else tarfile.SYMTYPE
                info.linkname = data.target
                tar.addfile(info)
            else:
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@dataclass(slots=True)
class ToyRegistry:
    """Serves manifests and blobs; a test may damage `blobs`, and sees in `asked` what was read."""

    address: str = ""
    blobs: dict[str, bytes] = field(default_factory=dict)
    manifests: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def add(
        self,
        repository: str,
        archives: list[bytes],
        config: Mapping[str, object] | None = None,
        tag: str = "",
    ) -> str:
        """Store an image and return its name with the digest."""
        packed = [gzip.compress(one, mtime=0) for one in archives]
        settings = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": dict(config or {}),
                "rootfs": {"type": "layers", "diff_ids": [digest_of(one) for one in archives]},
            }
        ).encode()
        self.blobs |= {digest_of(blob): blob for blob in (settings, *packed)}
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {"digest": digest_of(settings), "size": len(settings)},
                "layers": [
                    {"mediaType": LAYER, "digest": digest_of(one), "size": len(one)}
                    for one in packed
                ],
            }
        ).encode()
        for reference in (digest_of(manifest), tag):
            if reference:
                self.manifests[f"{repository}/{reference}"] = manifest
        return f"{self.address}/{repository}@{digest_of(manifest)}"


@contextlib.contextmanager
def toy_registry() -> Iterator[ToyRegistry]:
    registry = ToyRegistry()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            registry.asked.append(self.path)
            repository, kind, name = self.path.removeprefix("/v2/").rsplit("/", 2)
            held = registry.blobs.get(name)
            if kind == "manifests":
                held = registry.manifests.get(f"{repository}/{name}")
            self.send_response(404 if held is None else 200)
            self.send_header("Content-Length", str(len(held or b"")))
            self.end_headers()
            self.wfile.write(held or b"")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        registry.address = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield registry
        finally:
            server.shutdown()
            thread.join()


class Cri:
    """Calls the runtime as a kubelet does, over its socket."""

    def __init__(self, socket: Path) -> None:
        # A pool of its own: else a channel inherits the back-off of one to the runtime before.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 200)]
        options += [("grpc.initial_reconnect_backoff_ms", 50)]
        options += [("grpc.max_receive_message_length", -1)]
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=options)
        self.patient = True  # waits for a runtime that is not there (yet)

    def close(self) -> None:
        self._channel.close()

    def call(self, name: str, service: str = "Runtime", **fields: Any) -> Any:
        method = self._channel.unary_unary(
            f"/runtime.v1.{service}Service/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=getattr(cri, f"{name}Response").FromString,
        )
        request = getattr(cri, f"{name}Request")(**fields)
        # Importing gRPC took over 20 s on a machine at work.
        timeout_s = 90 if self.patient else 20
        return method(request, timeout=timeout_s, wait_for_ready=self.patient)

    def image(self, name: str, **fields: Any) -> Any:
        return self.call(name, "Image", **fields)

    def pull(self, name: str) -> str:
        return str(self.image("PullImage", image={"image": name}).image_ref)


@dataclass(slots=True)
class ToyNode:
    """One runtime process, with what a kubelet would do around it."""

    folder: Path
    registry: ToyRegistry
    cri: Cri
    process: subprocess.Popen[bytes]
    wrapper: tuple[str, ...] = ()

    @property
    def root(self) -> Path:
        return self.folder / "root"

    def pod(self, name: str = "pod", **config: Any) -> str:
        logs = self.folder / "logs" / name
        logs.mkdir(parents=True, exist_ok=True)
        metadata = {"name": name, "uid": f"uid-{name}", "namespace": "default", "attempt": 0}
        settings = {"metadata": metadata, "hostname": name, "log_directory": str(logs)} | config
        return str(self.cri.call("RunPodSandbox", config=settings).pod_sandbox_id)

    def create(self, pod: str, image: str, script: str = "", **config: Any) -> str:
        """Create a container that runs a shell script (or what `config` says)."""
        settings = {
            "metadata": {"name": "main", "attempt": 0},
            "image": {"image": self.cri.pull(image), "user_specified_image": image},
            "log_path": "main/0.log",
        }
        if script:
            settings["command"] = ["sh", "-c", script]
        made = self.cri.call("CreateContainer", pod_sandbox_id=pod, config=settings | config)
        return str(made.container_id)

    def start(self, image: str, script: str = "", **config: Any) -> str:
        """Start a container in a pod of its own."""
        pod = self.pod(f"pod-{os.urandom(4).hex()}")
        container = self.create(pod, image, script, **config)
        self.cri.call("StartContainer", container_id=container)
        return container

    def status(self, container: str) -> Any:
        return self.cri.call("ContainerStatus", container_id=container).status

    def ended(self, container: str) -> Any:
        """Wait for the end of a container and return its status."""
        return wait_for(
            lambda: status if (status := self.status(container)).state == 2 else None,
            f"container {container} to end",
        )

    def log(self, container: str) -> list[str]:
        return Path(self.status(container).log_path).read_text().splitlines()

    def output(self, image: str, script: str, **config: Any) -> list[str]:
        """Run a script to its end and return the lines it printed."""
        container = self.start(image, script, **config)
        self.ended(container)
        return [line.split(" ", 3)[3] for line in self.log(container)]

    def wait_for_log(self, container: str, text: str) -> None:
        path = Path(self.status(container).log_path)
        wait_for(lambda: path.exists() and text in path.read_text(), f"{text!r} in {path}")

    def keepers(self) -> list[int]:
        """Return the keepers of containers: they carry this node's marker."""
        mark = f"{MARKER}={self.folder}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self.process.pid:
                with contextlib.suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found

    def keeper_of(self, container: str) -> int:
        """Return the keeper of a container; the containers of other tests run beside it."""
        return next(pid for pid in self.keepers() if f"/{container}" in command_of(pid))

    def family(self, container: str) -> set[int]:
        """Return the keeper of a container and all that came of it."""
        return self._with_descendants({self.keeper_of(container)})

    def processes(self) -> set[int]:
        """Return the keepers and all that came of them."""
        return self._with_descendants(set(self.keepers()))

    def _with_descendants(self, found: set[int]) -> set[int]:
        parents: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self.process.pid:
                with contextlib.suppress(OSError):
                    stat = (entry / "stat").read_text().rpartition(")")[2]
                    parents[int(entry.name)] = int(stat.split()[1])
        while further := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= further
        return found

    @staticmethod
    def running(*words: str) -> bool:
        """Return whether a process anywhere runs just this command line."""
        command = "".join(f"{word}\0" for word in words)
        pids = (entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit())
        return any(command_of(int(pid)) == command for pid in pids)

    @staticmethod
    def living(pids: set[int]) -> set[int]:
        """Return those of some processes that live: one whose keeper died is nobody's child."""
        found = set()
        for pid in pids:
            with contextlib.suppress(OSError):
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
                found |= set() if state in "ZX" else {pid}
        return found

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def restart(self, module: str = RUNTIME, **environment: str) -> None:
        self.process = _start(self.folder, self.registry, module, environment, self.wrapper)
        self.cri.close()
        self.cri = Cri(self.folder / "cri.sock")


def wait_for(found: Any, what: str, timeout_s: float = 15.0) -> Any:
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if result := found():
            return result
        time.sleep(0.01)
    raise AssertionError(f"waited {timeout_s:g} s for {what}")


# No further user namespace may be made in this one, and no capability is left to do without.
_FORBID = "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --no-new-privs "
_FORBID += '--bounding-set=-all --inh-caps=-all --ambient-caps=-all -- "$@"'
WITHOUT_NAMESPACES = (
    *("unshare", "--user", "--map-current-user", "--keep-caps"),
    *("sh", "-c", _FORBID, "sh"),
)
"""Runs a command as on a machine that forbids namespaces."""


def _start(
    folder: Path,
    registry: ToyRegistry,
    module: str,
    further: Mapping[str, str],
    wrapper: tuple[str, ...] = (),
) -> subprocess.Popen[bytes]:
    command = [
        *wrapper,
        *(sys.executable, "-m", module, "--node", "node-a"),
        *("--socket", str(folder / "cri.sock"), "--root", str(folder / "root")),
        *("--pod-network", "127.100.9.0/24", "--registry", registry.address),
        *("--api", "127.0.0.1:16443", "--grace", "0.5"),
    ]
    proxy = {"HTTP_PROXY": "http://127.0.0.1:9"}
    environment = {**os.environ, MARKER: str(folder), **proxy, **further}
    log = (folder / "runtime.log").open("ab")
    with log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def command_of(pid: int) -> str:
    """Return the command line of a process, its words ended by NUL; "" when there is none."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


@contextlib.contextmanager
def toy_node(
    folder: Path, wrapper: tuple[str, ...] = (), module: str = RUNTIME
) -> Iterator[ToyNode]:
    with toy_registry() as registry:
        process = _start(folder, registry, module, {}, wrapper)
        node = ToyNode(folder, registry, Cri(folder / "cri.sock"), process, wrapper)
        try:
            yield node
        finally:
            node.cri.close()
            node.process.terminate()
            node.process.wait(20)
