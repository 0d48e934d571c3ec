"""Who trusts whom in one sandbox: certificates, tokens, kubeconfigs.

The API server knows its users by bearer tokens from one file; it proves itself, and is recognised
by etcd and by the kubelets, by certificates of an authority that exists for this sandbox only. All
files are readable by their owner only and are kept over restarts, because browsers, shells and
kubeconfigs remember them.
"""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from slipway.core.errors import PermanentError
from slipway.manifests.names import BACKUP_ACCOUNT, RELEASE_ACCOUNT, WATCH_ACCOUNT
from slipway.sandbox.home import SandboxHome
from slipway.sandbox.network.addresses import kubelet_address, shown_address

CONTEXT = "slipway"
"""The current context of every kubeconfig here: that of whom the file is for."""

_PKI_TIMEOUT_S = 30.0
_NODES = ("node-a", "node-b")


@dataclass(frozen=True, slots=True)
class User:
    """One user of the API server.

    Args:
        name: who the API server says it is.
        groups: what RBAC grants rights to.
        kubeconfig: file name below the sandbox's `pki` folder; None for the administrator's own.
    """

    name: str
    groups: tuple[str, ...]
    kubeconfig: str | None


ADMINISTRATOR = User("slipway-admin", ("system:masters",), None)
# istiod reads and writes across the cluster; its chart grants that by a long role of its own.
ISTIOD = User("istiod", ("system:masters",), "istiod.kubeconfig")
CONTROLLER_MANAGER = User("system:kube-controller-manager", (), "controller-manager.kubeconfig")
# Asks which pods a service has, for the proxies of the network.
NETWORK = User("slipway-network", ("system:masters",), "network.kubeconfig")
SCHEDULER = User("system:kube-scheduler", (), "scheduler.kubeconfig")


def kubelet_user(node: str) -> User:
    """Return the user of a node's kubelet, as the Node authorizer expects it."""
    return User(f"system:node:{node}", ("system:nodes",), f"kubelet-{node}.kubeconfig")


ACCOUNTS = (RELEASE_ACCOUNT, WATCH_ACCOUNT, BACKUP_ACCOUNT)
"""Service accounts with a context of their own name in the administrator's kubeconfig."""


def account_token(home: SandboxHome, account: str) -> Path:
    """Return where the token of a service account is kept; there is none before the first start."""
    return home.secrets / f"account-{account}"


def users() -> tuple[User, ...]:
    """Return every user with a token."""
    nodes = tuple(kubelet_user(node) for node in _NODES)
    return (ADMINISTRATOR, ISTIOD, CONTROLLER_MANAGER, SCHEDULER, NETWORK, *nodes)


def kubeconfig_path(home: SandboxHome, user: User) -> Path:
    """Return where the kubeconfig of `user` stands."""
    return home.kubeconfig if user.kubeconfig is None else home.pki / user.kubeconfig


def tokens_path(home: SandboxHome) -> Path:
    """Return the file for the API server's `--token-auth-file`."""
    return home.secrets / "tokens.csv"


def prepare(home: SandboxHome, binary: Path) -> None:
    """Write certificates, tokens and kubeconfigs; what exists is kept.

    Args:
        home: the sandbox, its folders created.
        binary: the control plane (`slipway.sandbox.build.control_plane`), which makes the keys.

    Raises:
        PermanentError: the keys could not be written.
    """
    _certificates(home, binary)
    lines = (
        ",".join((_token(home, user), user.name, user.name, f'"{",".join(user.groups)}"'))
        for user in users()
    )
    write_private(tokens_path(home), "\n".join(lines) + "\n")
    for user in users():
        write_private(kubeconfig_path(home, user), kubeconfig(home, user))


def kubeconfig(home: SandboxHome, user: User) -> str:
    """Return a kubeconfig (YAML) that needs no other file; certificates must have been written."""
    authority = base64.b64encode((home.pki / "ca.crt").read_bytes()).decode()
    # People and flows go through the door that may have faults; the sandbox's own parts do not.
    port = home.port("apiserver" if user is ADMINISTRATOR else "apiserver-inner")
    cluster = {
        "server": f"https://127.0.0.1:{port}",
        "certificate-authority-data": authority,
    }
    # Context, user, token.
    known = [(CONTEXT, user.name, _token(home, user))]
    if user is ADMINISTRATOR:
        known += [(name, name, token) for name, token in _account_tokens(home)]
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "slipway", "cluster": cluster}],
        "users": [{"name": name, "user": {"token": token}} for _, name, token in known],
        "contexts": [
            {"name": context, "context": {"cluster": "slipway", "user": name}}
            for context, name, _ in known
        ],
        "current-context": CONTEXT,
    }
    return yaml.safe_dump(content, sort_keys=False)


def _account_tokens(home: SandboxHome) -> Iterator[tuple[str, str]]:
    for account in ACCOUNTS:
        path = account_token(home, account)
        if path.exists():
            yield account, path.read_text()


def write_private(path: Path, text: str) -> None:
    """Write a whole file or none, mode 0600; a file that says the same already is left alone."""
    if path.exists() and path.read_text() == text:
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)


def _token(home: SandboxHome, user: User) -> str:
    return home.secret("token-" + user.name.replace(":", "-"))


def _certificates(home: SandboxHome, binary: Path) -> None:
    local = "127.0.0.1,localhost"
    api = f"{local},10.96.0.1,kubernetes,kubernetes.default,kubernetes.default.svc"
    serving = {
        "apiserver": f"{api},kubernetes.default.svc.cluster.local",
        "etcd": local,
        "controller-manager": local,
        "scheduler": local,
        **{f"kubelet-{node}": _kubelet_hosts(home, node) for node in _NODES},
    }
    command = [str(binary), "pki", "--dir", str(home.pki)]
    for name, hosts in serving.items():
        command += ["--serving", f"{name}={hosts}"]
    for name in ("etcd-client", "kubelet-client"):
        command += ["--client", name]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PKI_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _refused(home, str(error)) from error
    if done.returncode != 0:
        raise _refused(home, done.stderr.strip())


def _kubelet_hosts(home: SandboxHome, node: str) -> str:
    """Return whom a kubelet's certificate names; one that names other addresses is dropped.

    A node gets other addresses when a running sandbox holds the slice that it had.
    """
    address = kubelet_address(home.slice_of(node))
    hosts = f"127.0.0.1,localhost,{node},{address},{shown_address(address)}"
    issued = home.pki / f"kubelet-{node}.hosts"
    if not issued.exists() or issued.read_text() != hosts:
        # In this order: killed in between, the certificate is dropped again.
        (home.pki / f"kubelet-{node}.crt").unlink(missing_ok=True)
        write_private(issued, hosts)
    return hosts


def _refused(home: SandboxHome, reason: str) -> PermanentError:
    return PermanentError(
        f"the keys of the sandbox could not be written to {home.pki}: {reason}",
        code="sandbox-keys-failed",
        hint="run `slipway sandbox reset`, which makes new ones",
    )
