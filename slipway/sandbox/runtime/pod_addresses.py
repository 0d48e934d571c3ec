"""Pure: which loopback address the next pod gets."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network

from slipway.core.errors import TransientError

_FIRST = 2
"""x.1 stays free: by habit it is a gateway."""


def next_address(network: IPv4Network, taken: Collection[str], last: str) -> str:
    """Return a free pod address, going round, so that a released one is reused as late as possible.

    Args:
        network: the node's pods, for example 127.100.1.0/24.
        taken: addresses of pods that live.
        last: address given out before; "" for none.

    Raises:
        TransientError: every address is taken.
    """
    count = network.num_addresses - _FIRST - 1  # without the broadcast address
    base = int(network.network_address) + _FIRST
    start = 0
    if last and IPv4Address(last) in network:
        start = int(IPv4Address(last)) - base + 1
    for step in range(count):
        address = str(IPv4Address(base + (start + step) % count))
        if address not in taken:
            return address
    raise TransientError(
        f"no free pod address in {network}",
        code="pod-addresses-exhausted",
        hint="delete pods of this node",
    )
