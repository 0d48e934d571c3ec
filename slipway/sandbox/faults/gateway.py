"""Changes that the gateway has taken up when they return: read from Envoy itself."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

import httpx

from slipway.core.errors import TransientError
from slipway.sandbox.faults.client import Done, add_fault, remove_faults
from slipway.sandbox.faults.model import Fault
from slipway.sandbox.faults.pods import is_gateway_fault
from slipway.sandbox.home import SandboxHome
from slipway.sandbox.network.addresses import DOOR_PREFIX, door_address

_DEADLINE_S = 15.0
_POLL_S = 0.05
_TIMEOUT_S = 5.0
_HOST = re.compile(r"::(127\.10[01]\.[0-9.]+):[0-9]+::")


def add_and_wait(home: SandboxHome, fault: Fault, lasts_s: float = 0.0) -> Done:
    """Put a fault in force and wait until the gateway goes through it, too.

    Args:
        home: the running sandbox.
        fault: without id and times.
        lasts_s: how long; 0 for until it is removed.

    Raises:
        InputError: it makes no sense.
        TransientError: it cannot be applied, or the gateway does not take it up.
        ConflictError: the target carries too many.
    """
    done = add_fault(home.run, fault, lasts_s)
    if is_gateway_fault(fault):
        wait_until_routed(home, done.pods)
    return done


def remove_and_wait(home: SandboxHome, ids: Iterable[str] = ()) -> Done:
    """Take faults back, all without ids, and wait until the gateway goes straight to the pods.

    Raises:
        InputError: there is no such fault.
        TransientError: the sandbox does not run, or the gateway does not take it up.
    """
    done = remove_faults(home.run, ids)
    if any(is_gateway_fault(fault) for fault in done.faults):
        wait_until_routed(home, done.pods)
    return done


def wait_until_routed(home: SandboxHome, pods: tuple[str, ...]) -> None:
    """Wait until the gateway reaches these pods, and no others, through their doors.

    Pods that the gateway does not know are not waited for.

    Raises:
        TransientError: it does not within 15 s, or Envoy does not answer.
    """
    url = f"http://127.0.0.1:{home.port('gateway-admin')}/clusters"
    deadline_s = time.monotonic() + _DEADLINE_S
    with httpx.Client(trust_env=False, timeout=_TIMEOUT_S) as client:
        while not is_routed(_clusters(client, url), pods):
            if time.monotonic() > deadline_s:
                raise TransientError(
                    f"the gateway has not taken the change up within {_DEADLINE_S:.0f} s",
                    code="fault-not-applied",
                    hint="slipway sandbox logs relay, then slipway sandbox logs istiod",
                )
            time.sleep(_POLL_S)


def is_routed(clusters: str, pods: tuple[str, ...]) -> bool:
    """Whether Envoy's list of clusters (text form of `/clusters`) shows exactly these doors."""
    hosts = set(_HOST.findall(clusters))
    doors = {door_address(pod) for pod in pods}
    direct = hosts & set(pods)
    stale = {host for host in hosts if host.startswith(DOOR_PREFIX)} - doors
    return not direct and not stale


def _clusters(client: httpx.Client, url: str) -> str:
    try:
        return client.get(url).raise_for_status().text
    except httpx.HTTPError as error:
        raise TransientError(
            f"the gateway's Envoy does not answer at {url}: {error!r}",
            code="fault-not-applied",
            hint="slipway sandbox logs gateway",
        ) from error
