"""Every socket of the sandbox, and of a release on it, is on 127.0.0.0/8, whatever proxy is set.

Read from the kernel's own tables (proc(5): /proc/net/tcp, tcp6, udp, udp6), while a release runs
and after it. A socket belongs to the process that holds its inode open.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from pathlib import Path

import pytest

from slipway.sandbox.supervisor_process import processes_of
from tests.e2e.support import PROJECT, Sandbox, World, harmed, said, users

pytestmark = pytest.mark.drawn_file("long")

LOOPBACK = IPv4Network("127.0.0.0/8")
TABLES = ("tcp", "tcp6", "udp", "udp6")
LISTEN = "0A"
DEAD = "http://127.0.0.1:9"
SAMPLE_EVERY_S = 0.1


@dataclass(frozen=True)
class Endpoint:
    """One end of a socket; IPv4 addresses that IPv6 sockets write are IPv4 again."""

    address: IPv4Address | IPv6Address
    port: int

    @property
    def nobody(self) -> bool:
        """Whether this is the other end of a socket that has none."""
        return self.address.is_unspecified and self.port == 0

    @property
    def on_loopback(self) -> bool:
        return isinstance(self.address, IPv4Address) and self.address in LOOPBACK


@dataclass(frozen=True)
class Socket:
    """One line of the kernel's table and who holds it."""

    owner: str
    table: str
    listening: bool
    local: Endpoint
    remote: Endpoint

    @property
    def inside(self) -> bool:
        return self.local.on_loopback and (self.remote.nobody or self.remote.on_loopback)


def endpoint(text: str) -> Endpoint:
    """Decode `0100007F:1F90`: words in the machine's byte order, then the port."""
    address, port = text.split(":")
    raw = bytes.fromhex(address)
    words = (raw[start : start + 4] for start in range(0, len(raw), 4))
    ordered = words if sys.byteorder == "big" else (word[::-1] for word in words)
    decoded = ip_address(b"".join(ordered))
    mapped = decoded.ipv4_mapped if isinstance(decoded, IPv6Address) else None
    return Endpoint(mapped or decoded, int(port, 16))


def sockets_of(pids: Iterable[int]) -> set[Socket]:
    """Return the internet sockets that these processes hold."""
    # The holders first: a socket opened in between is then missed, never taken for another's.
    holders = {inode: owner for pid in pids for inode, owner in held_by(pid)}
    found = set()
    for table in TABLES:
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if (owner := holders.get(fields[9])) is not None:
                local, remote = endpoint(fields[1]), endpoint(fields[2])
                listening = table.startswith("tcp") and fields[3] == LISTEN
                found.add(Socket(owner, table, listening, local, remote))
    return found


def held_by(pid: int) -> Iterator[tuple[str, str]]:
    """Yield the sockets that a process holds: inode, and the process's command."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        targets = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]  # noqa: PTH115  # not a path
    except OSError:  # it ended meanwhile
        return
    for target in targets:
        if target.startswith("socket:["):
            yield target[8:-1], f"{pid} {command[:120]}"


def with_descendants(pids: Iterable[int]) -> set[int]:
    """Return processes and all that came of them: containers do not carry the marker for sure."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, pending = set(), list(pids)
    while pending:
        pid = pending.pop()
        found.add(pid)
        pending.extend(child for child in children.get(pid, ()) if child not in found)
    return found


class Watcher:
    """Collects the sockets of a sandbox, and of further processes, again and again."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self.further: set[int] = set()
        self.seen: set[Socket] = set()
        self.samples = 0

    def look(self) -> None:
        ours = {process.pid for process in processes_of(self._sandbox.home)}
        self.seen |= sockets_of(with_descendants(ours | self.further))
        self.samples += 1

    @contextmanager
    def looking(self) -> Iterator[None]:
        stop = threading.Event()

        def work() -> None:
            while not stop.wait(SAMPLE_EVERY_S):
                self.look()

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@dataclass(frozen=True)
class Shell:
    """A user's shell with proxies that are dead, and none of the sandbox's settings.

    Args:
        world: the services.
        no_proxy: the user's own NO_PROXY; None leaves it unset.
    """

    world: World
    no_proxy: str | None
    environment: dict[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
        environment = {
            **dict.fromkeys(names, DEAD),
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.world.folder),
            "SLIPWAY_HOME": str(self.world.sandbox.home.root),
            "SLIPWAY_SERVICES": str(self.world.services),
        }
        if self.no_proxy is not None:
            environment |= dict.fromkeys(("NO_PROXY", "no_proxy"), self.no_proxy)
        object.__setattr__(self, "environment", environment)

    def slipway(self, *args: str) -> subprocess.CompletedProcess[str]:
        command = (sys.executable, "-m", "slipway.cli", *args)
        return subprocess.run(
            command, cwd=PROJECT, env=self.environment, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def world(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(sandbox, tmp_path_factory.mktemp("loopback"))


@pytest.fixture(scope="module")
def service(world: World) -> str:
    """A service with a live version."""
    name = world.given_service("loopback", replicas=1)
    first = world.release(name, world.given_version(name))
    assert first.returncode == 0, said(first)
    return name


@pytest.fixture(params=[None, "", "corp.example"], ids=["unset", "empty", "of a company"])
def shell(world: World, request: pytest.FixtureRequest) -> Shell:
    return Shell(world, request.param)


def outside(sockets: Iterable[Socket]) -> list[Socket]:
    return [socket for socket in sockets if not socket.inside]


def test_kernel_table_is_read_right() -> None:
    assert endpoint("0100007F:1F90") == Endpoint(IPv4Address("127.0.0.1"), 8080)
    assert endpoint("0000000000000000FFFF00000100007F:0050").on_loopback
    assert endpoint("00000000:0000").nobody
    assert not endpoint("00000000:0050").on_loopback
    assert not endpoint("01000A0A:01BB").on_loopback


def test_no_socket_of_the_sandbox_and_of_a_release_leaves_loopback(
    world: World, service: str
) -> None:
    watcher = Watcher(world.sandbox)
    version = world.given_version(service, ttft_ms=6)
    with watcher.looking(), users(world, service, rate=5) as crowd:
        running = world.start_release(service, version)
        watcher.further.add(running.pid)
        output, _ = running.communicate(timeout=240)
        crowd.stop()
    watcher.look()

    assert running.returncode == 0, output
    assert outside(watcher.seen) == []
    assert watcher.samples > 10
    owners = {socket.owner for socket in watcher.seen}
    parts = ("apiserver", "etcd", "kubelet", "istiod", "envoy", "weed", "mlflow", "prefect server")
    # A look that finds nothing proves nothing: every server and the release itself were seen.
    for part in (*parts, "slipway.cli release", "slipway.sandbox.servers.simulated"):
        assert any(part in owner for owner in owners), part
    assert any(socket.listening for socket in watcher.seen)
    assert any(not socket.remote.nobody for socket in watcher.seen)


def test_socket_that_leaves_loopback_would_be_seen(world: World) -> None:
    code = "import socket, time; s = socket.create_server(('0.0.0.0', 0)); time.sleep(60)"
    process = subprocess.Popen((sys.executable, "-c", code))
    try:
        watcher = Watcher(world.sandbox)
        watcher.further.add(process.pid)
        deadline_s = time.monotonic() + 10
        while not outside(watcher.seen):
            assert time.monotonic() < deadline_s, "the open door was not seen"
            watcher.look()
        (seen,) = outside(watcher.seen)
        assert seen.listening
        assert str(seen.local.address) == "0.0.0.0"
    finally:
        process.kill()
        process.wait()


def test_dead_proxy_of_the_user_hinders_no_status_of_the_sandbox(shell: Shell) -> None:
    told = shell.slipway("sandbox", "status")
    assert told.returncode == 0, said(told)
    assert "gateway" in said(told)


def test_dead_proxy_of_the_user_hinders_no_registration_and_no_status_of_a_service(
    shell: Shell, service: str
) -> None:
    files = shell.world.folder / f"registered-{time.time_ns()}"
    files.mkdir()
    (files / "simulated.json").write_text("{}")
    registered = shell.slipway("model", "register", service, str(files))
    assert registered.returncode == 0, said(registered)
    assert f"{service} version" in said(registered)
    told = shell.slipway("status", service)
    assert told.returncode == 0, said(told)
    assert "1/1 ready" in said(told)


def test_dead_proxy_of_the_user_hinders_no_release(world: World, service: str) -> None:
    version = world.given_version(service, ttft_ms=7)
    released = Shell(world, "corp.example").slipway("release", service, version)
    assert released.returncode == 0, said(released)


def test_dead_proxy_of_the_user_hinders_no_user(
    shell: Shell, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in shell.environment.items():
        if name.lower().endswith("_proxy"):
            monkeypatch.setenv(name, value)  # the users inherit it
    with users(shell.world, service, rate=20) as crowd:
        time.sleep(1)
        ledger = crowd.stop()
    assert ledger
    assert harmed(ledger) == {}
