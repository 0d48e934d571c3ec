"""Pure: what a name or an address inside the cluster is on this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network

SHOWN_PREFIX = "100.100."
"""Pod addresses as the API shows them: shared address space, RFC 6598."""

NODE_PREFIX = "127.100."
"""The same addresses as processes listen on them; of equal length on purpose."""

DOOR_PREFIX = "127.101."
"""Where the doors of faulted pods stand (`slipway.sandbox.faults`); of equal length, too."""

_SLICE_LENGTH = 24
_LOOPBACK = IPv4Network("127.0.0.0/8")
_SHOWN = IPv4Network("100.100.0.0/16")
_NODES = frozenset({"node-a", "node-b"})
_SERVICE = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")  # RFC 1035
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # RFC 1123
_ENDPOINT = re.compile(rb"(?<![0-9.])100\.100\.([0-9]{1,3}\.[0-9]{1,3})")


@dataclass(frozen=True, slots=True)
class Loopback:
    """An address that may be dialled."""

    address: str


@dataclass(frozen=True, slots=True)
class ServiceName:
    """A Kubernetes service, to be looked up."""

    name: str
    namespace: str


@dataclass(frozen=True, slots=True)
class ServiceAddress:
    """A cluster address of a Kubernetes service, to be looked up."""

    address: str


Target = Loopback | ServiceName | ServiceAddress


def pod_network(number: int) -> str:
    """Return the network of one node, `ADDRESS/24`: its slice of 127.100.0.0/16."""
    return f"{NODE_PREFIX}{number}.0/{_SLICE_LENGTH}"


def kubelet_address(number: int) -> str:
    """Return where the kubelet of a node listens, given the number of the node's slice."""
    return f"{NODE_PREFIX}{number}.1"


def node_address(address: str) -> str:
    """Return where a process listens, given the address the API shows; others stay as they are."""
    if address.startswith(SHOWN_PREFIX):
        return NODE_PREFIX + address.removeprefix(SHOWN_PREFIX)
    return address


def shown_address(address: str) -> str:
    """Return what the API shows, given the address a process listens on; others stay."""
    if address.startswith(NODE_PREFIX):
        return SHOWN_PREFIX + address.removeprefix(NODE_PREFIX)
    return address


def target_of(host: str, services: IPv4Network) -> Target | None:
    """Return what `host` means inside the sandbox, None when it lies outside.

    Args:
        host: a name or an IPv4 address, as it stands in a URL.
        services: the cluster addresses of services.
    """
    name = host.lower().rstrip(".")
    try:
        address = IPv4Address(name)
    except AddressValueError:
        return _named(name)
    if address in _SHOWN:
        return Loopback(node_address(name))
    if address in _LOOPBACK:
        return Loopback(name)
    if address in services:
        return ServiceAddress(name)
    return None


def _named(name: str) -> Target | None:
    if name == "localhost" or name in _NODES:
        return Loopback("127.0.0.1")
    labels = name.split(".")
    if labels[2:] not in ([], ["svc"], ["svc", "cluster", "local"]):
        return None
    if len(labels) < 2 or not _SERVICE.fullmatch(labels[0]) or not _NAMESPACE.fullmatch(labels[1]):
        return None
    return ServiceName(labels[0], labels[1])


def door_address(address: str) -> str:
    """Return where the door of a pod stands, given where its process listens."""
    return DOOR_PREFIX + address.removeprefix(NODE_PREFIX)


def map_endpoints(message: bytes, doors: frozenset[bytes] = frozenset()) -> bytes:
    """Return a serialised ClusterLoadAssignment with pod addresses as processes listen on them.

    Args:
        message: as istiod sent it.
        doors: the pods that are reached through a door, each as the last two numbers of its
            address, for example b"1.17".

    Both spellings have the same length, so no length field of the message changes. An address is
    preceded by its own length (7 to 15), never by a digit or a dot: `10.100.100.7` stays.
    """

    def mapped(found: re.Match[bytes]) -> bytes:
        prefix = DOOR_PREFIX if found[1] in doors else NODE_PREFIX
        return prefix.encode() + found[1]

    return _ENDPOINT.sub(mapped, message)
