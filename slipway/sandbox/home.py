"""Where one sandbox keeps everything: folders, ports, secrets.

Nothing is fixed in code: ports are chosen free once and remembered, so a restart finds every part
at the address that browsers and kubeconfigs already know.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

from slipway.core.errors import InputError

MARKER_VARIABLE = "SLIPWAY_SANDBOX_HOME"
"""Environment variable that every process of a sandbox carries: how `down` finds what is left."""

_LONGEST_SOCKET_PATH = 100  # sun_path holds 108 bytes; leave room for a suffix


@dataclass(frozen=True, slots=True)
class SandboxHome:
    """The folder of one sandbox.

    Layout: `ports.json`, `kubeconfig`, `secrets/` (0600), `pki/`, `data/PART/`, `config/PART/`,
    `logs/PART.log`, `run/` (sockets, `status.json`).
    """

    root: Path

    @classmethod
    def default(cls) -> SandboxHome:
        """Return the sandbox of this user: `SLIPWAY_HOME`, else below the XDG state directory."""
        chosen = os.environ.get("SLIPWAY_HOME")
        if chosen:
            return cls(Path(chosen).resolve())
        state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
        return cls(Path(state) / "slipway")

    def create(self) -> None:
        """Make the folders; running twice equals once.

        Raises:
            InputError: the path is too long for Unix sockets.
        """
        longest = len(str(self.run / "kubelet-node-a.sock"))
        if longest > _LONGEST_SOCKET_PATH:
            raise InputError(
                f"the sandbox folder {self.root} is too long for Unix sockets ({longest} bytes)",
                code="state-path-too-long",
                hint="set SLIPWAY_HOME to a shorter folder, for example /tmp/slipway",
            )
        for folder in (self.root, self.secrets, self.pki, self.logs, self.run):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for folder in (self.root / "data", self.root / "config"):
            folder.mkdir(exist_ok=True, mode=0o700)

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
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.root / "kubeconfig"

    def data(self, part: str) -> Path:
        """Return the data folder of a part, created."""
        return _folder(self.root / "data" / part)

    def config(self, part: str) -> Path:
        """Return the folder of a part's generated configuration, created."""
        return _folder(self.root / "config" / part)

    def port(self, name: str) -> int:
        """Return the TCP port remembered under `name`, choosing a free one the first time.

        Raises:
            InputError: there is no sandbox in this folder.
        """
        path = self.root / "ports.json"
        if not self.root.is_dir():
            raise InputError(
                f"there is no sandbox in {self.root}",
                code="sandbox-missing",
                hint="start one: slipway sandbox up",
            )
        ports: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
        if name not in ports:
            ports[name] = _free_port(frozenset(ports.values()))
            _write_atomically(path, json.dumps(ports, indent=2, sort_keys=True))
        return ports[name]

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


def _free_port(taken: frozenset[int]) -> int:
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port not in taken:
            return port


def _write_atomically(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
