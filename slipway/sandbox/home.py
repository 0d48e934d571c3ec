"""Where one sandbox keeps everything: folders, ports, secrets.

Nothing is fixed in code: ports and slices of addresses are chosen free once and remembered, so a
restart finds every part at the address that browsers and kubeconfigs already know.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from slipway.core.errors import InputError, TransientError

MARKER_VARIABLE = "SLIPWAY_SANDBOX_HOME"
"""Environment variable that every process of a sandbox carries: how `down` finds what is left."""

DEFAULT_NAME = "default"

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?")

# Below the range of outgoing connections (32768 and up), so none of them takes a remembered port.
_FIRST_PORT = 20_000
_LAST_PORT = 32_000
_PORTS_OF_ONE = 100  # far more than one sandbox needs

_LONGEST_SOCKET_PATH = 100  # sun_path holds 108 bytes; leave room for a suffix


@dataclass(frozen=True, slots=True)
class SandboxHome:
    """The folder of one sandbox.

    Layout: `ports.json`, `slices.json`, `kubeconfig`, `secrets/` (0600), `pki/`, `data/PART/`,
    `config/PART/`, `logs/PART.log`, `run/` (sockets, `status.json`), `tmp/`.
    """

    root: Path

    @classmethod
    def default(cls, name: str | None = None) -> SandboxHome:
        """Return the sandbox that the user means.

        Args:
            name: as given on the command line; None is the variable `SLIPWAY_SANDBOX`. Without
                both it is the folder `SLIPWAY_HOME`, else the sandbox called `default`.

        Raises:
            InputError: the name is none, or `SLIPWAY_HOME` says another folder.
        """
        chosen = os.environ.get("SLIPWAY_HOME")
        name = name or os.environ.get("SLIPWAY_SANDBOX")
        if not chosen:
            return cls.named(name or DEFAULT_NAME)
        home = cls(Path(chosen).resolve())
        if name and cls.named(name) != home:
            raise InputError(
                f"two sandboxes are named: {name!r}, and by SLIPWAY_HOME the one in {home.root}",
                code="sandbox-ambiguous",
                hint="leave the name out, or unset SLIPWAY_HOME (a shell with the settings of "
                "`slipway sandbox env` has it set)",
            )
        return home

    @classmethod
    def named(cls, name: str) -> SandboxHome:
        """Return this user's sandbox of a name, below the XDG state directory.

        Raises:
            InputError: it is no DNS label of at most 20 characters.
        """
        if not _NAME.fullmatch(name):
            raise InputError(
                f"a sandbox cannot be called {name!r}",
                code="sandbox-name-invalid",
                hint="at most 20 lower-case letters, digits and hyphens, no hyphen at the ends",
            )
        folder = "slipway" if name == DEFAULT_NAME else f"slipway-{name}"
        return cls(_state_folder() / folder)

    @classmethod
    def all_of_user(cls) -> tuple[SandboxHome, ...]:
        """Return the sandboxes below the XDG state directory that were ever started, by name."""
        found = (cls(path.parent) for path in _state_folder().glob("slipway*/ports.json"))
        return tuple(sorted((home for home in found if home.name), key=lambda home: home.root))

    @property
    def name(self) -> str:
        """The name it is reached by; "" for a folder that only `SLIPWAY_HOME` can say."""
        if self.root.parent != _state_folder():
            return ""
        found = self.root.name.removeprefix("slipway").removeprefix("-") or DEFAULT_NAME
        return found if _NAME.fullmatch(found) and self == SandboxHome.named(found) else ""

    def option(self) -> str:
        """Return what a printed command needs to mean this sandbox, with a leading space."""
        return "" if self.name in {"", DEFAULT_NAME} else f" --name {self.name}"

    def create(self) -> None:
        """Make the folders; running twice equals once.

        Raises:
            InputError: the path is too long for Unix sockets, or cannot be made.
        """
        longest = len(str(self.run / "kubelet-node-a.sock"))
        if longest > _LONGEST_SOCKET_PATH:
            raise InputError(
                f"the sandbox folder {self.root} is too long for Unix sockets ({longest} bytes)",
                code="state-path-too-long",
                hint="set SLIPWAY_HOME to a shorter folder, for example /tmp/slipway",
            )
        below = (self.secrets, self.pki, self.logs, self.run, self.temporary)
        try:
            for folder in (self.root, *below, self.root / "data", self.root / "config"):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise InputError(
                f"the sandbox folder {self.root} cannot be made: {error.strerror}: "
                f"{error.filename}",
                code="state-folder-unusable",
                hint="make it writable for you, or set SLIPWAY_HOME to another folder",
            ) from error

    @property
    def secrets(self) -> Path:
        """Folder of tokens and keys, each file 0600."""
        return self.root / "secrets"

    @property
    def pki(self) -> Path:
        """Folder of certificates and signing keys."""
        return self.root / "pki"

    @property
    def logs(self) -> Path:
        """Folder with one log file per part."""
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """Folder of sockets and the supervisor's status file."""
        return self.root / "run"

    @property
    def temporary(self) -> Path:
        """Folder for what the parts keep for a moment."""
        return self.root / "tmp"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.root / "kubeconfig"

    def data(self, part: str) -> Path:
        """Return the data folder of a part, created."""
        return _folder(self.root / "data" / part)

    def config(self, part: str) -> Path:
        """Return the folder of a part's generated configuration, created."""
        return _folder(self.root / "config" / part)

    def port(self, name: str, *, usable: Callable[[int], bool] = lambda _: True) -> int:
        """Return the TCP port remembered under `name`, choosing a free one the first time.

        Args:
            name: what listens there.
            usable: what else must hold of it; a remembered port that fails is given up for another.

        Raises:
            InputError: there is no sandbox in this folder.
            TransientError: no port is left.
        """
        path = self.root / "ports.json"
        if not self.root.is_dir():
            raise InputError(
                f"there is no sandbox in {self.root}",
                code="sandbox-missing",
                hint="start one: slipway sandbox up",
            )
        ports = self.remembered_ports()
        if name not in ports or not usable(ports[name]):
            others = self.all_of_user()
            elsewhere = (port for home in others for port in home.remembered_ports().values())
            taken = frozenset((*ports.values(), *elsewhere))
            ports[name] = _free_port(taken, usable, first=_first_port(self.root))
            _write_atomically(path, json.dumps(ports, indent=2, sort_keys=True))
        return ports[name]

    def remembered_ports(self) -> dict[str, int]:
        """Return the ports that were chosen so far, by name."""
        return _numbers(self.root / "ports.json")

    def slice_of(self, node: str) -> int:
        """Return which slice of 127.100.0.0/16 a node has (`slipway.sandbox.slices`).

        Raises:
            InputError: the sandbox was never started.
        """
        number = self.remembered_slice(node)
        if number is None:
            raise InputError(
                f"the sandbox in {self.root} was never started: {node} has no addresses",
                code="sandbox-missing",
                hint="start one: slipway sandbox up",
            )
        return number

    def remembered_slice(self, node: str) -> int | None:
        """Return the slice that a node had at the last start, None before the first one."""
        return _numbers(self.root / "slices.json").get(node)

    def remember_slices(self, numbers: Mapping[str, int]) -> None:
        """Note the slice of each node, by its name."""
        _write_atomically(self.root / "slices.json", json.dumps(dict(numbers), indent=2))

    def secret(self, name: str) -> str:
        """Return the random secret remembered under `name` (256 bits, hex), made the first time."""
        path = self.secrets / name
        if not path.exists():
            _write_atomically(path, secrets.token_hex(32))
        return path.read_text()

    def forget_ports(self) -> None:
        """Drop the remembered ports, so the next start chooses free ones."""
        (self.root / "ports.json").unlink(missing_ok=True)


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def _numbers(path: Path) -> dict[str, int]:
    try:
        found: dict[str, int] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return found


def _state_folder() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")


def _first_port(root: Path) -> int:
    """Return where the search for a sandbox's ports begins: apart from most others'.

    A sandbox that is stopped holds no port, and those of other users cannot be read. The same
    folder gets the same ports again after a reset, as long as they are free.
    """
    blocks = (_LAST_PORT - _FIRST_PORT) // _PORTS_OF_ONE
    digest = hashlib.sha256(os.fsencode(root)).digest()
    return _FIRST_PORT + int.from_bytes(digest[:8]) % blocks * _PORTS_OF_ONE


def _free_port(taken: frozenset[int], usable: Callable[[int], bool], *, first: int) -> int:
    for port in chain(range(first, _LAST_PORT), range(_FIRST_PORT, first)):
        if port not in taken and usable(port) and is_port_free(port):
            return port
    raise TransientError(
        f"no port from {_FIRST_PORT} to {_LAST_PORT} is free",
        code="ports-exhausted",
        hint="see who holds them: ss -ltnp",
    )


def is_port_free(port: int) -> bool:
    """Return whether a server could listen on a port of 127.0.0.1 now."""
    with socket.socket() as probe:
        # As servers do: a connection that the kernel only remembers is no holder.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _write_atomically(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
