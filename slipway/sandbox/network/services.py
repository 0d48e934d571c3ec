"""Which pod answers for a service: asked of the API server, remembered for a moment."""

from __future__ import annotations

import base64
import itertools
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from slipway.core.errors import PermanentError, TransientError
from slipway.sandbox.network.addresses import ServiceAddress, ServiceName, node_address

_REMEMBERED_S = 1.0
_TIMEOUT_S = 5.0
_HEADLESS = "None"
_API_SERVICE = ServiceName("kubernetes", "default")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a connection goes: always on loopback."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class _Remembered:
    endpoints: tuple[Endpoint, ...]
    until_s: float


class Services:
    """Looks services up in the cluster of a kubeconfig, which may appear later.

    Args:
        kubeconfig: read at the first question, and again when the file changed.
    """

    def __init__(self, kubeconfig: Path) -> None:
        """Remember the path; nothing is read yet."""
        self._kubeconfig = kubeconfig
        self._client: httpx.AsyncClient | None = None
        self._read_at_ns = 0
        self._known: dict[tuple[ServiceName | ServiceAddress, int], _Remembered] = {}
        self._turn = itertools.count()

    async def close(self) -> None:
        """Close the connections to the API server."""
        if self._client is not None:
            await self._client.aclose()

    async def endpoint(self, service: ServiceName | ServiceAddress, port: int) -> Endpoint:
        """Return a ready endpoint of a service, each in turn.

        Args:
            service: by name or by cluster address.
            port: of the service.

        Raises:
            PermanentError: no such service or port.
            TransientError: no endpoint is ready, or the API server does not answer.
        """
        now_s = time.monotonic()
        key = (service, port)
        known = self._known.get(key)
        if known is None or known.until_s < now_s:
            endpoints = await self._look_up(service, port)
            known = _Remembered(endpoints, now_s + _REMEMBERED_S)
            self._known = {k: v for k, v in self._known.items() if v.until_s >= now_s}
            self._known[key] = known
        return known.endpoints[next(self._turn) % len(known.endpoints)]

    async def _look_up(
        self, service: ServiceName | ServiceAddress, port: int
    ) -> tuple[Endpoint, ...]:
        client = await self._connected()
        try:
            found = await self._service(client, service)
            name = ServiceName(found["metadata"]["name"], found["metadata"]["namespace"])
            if name == _API_SERVICE:
                return (Endpoint(client.base_url.host, client.base_url.port or 443),)
            slices = await _get(
                client,
                f"/apis/discovery.k8s.io/v1/namespaces/{name.namespace}/endpointslices",
                {"labelSelector": f"kubernetes.io/service-name={name.name}"},
            )
        except httpx.HTTPError as error:
            raise TransientError(
                f"the API server does not answer: {error!r}",
                code="api-silent",
                hint="see the apiserver's log",
            ) from error
        if found["spec"].get("clusterIP") == _HEADLESS:
            endpoints = headless_endpoints(slices["items"], port)
        else:
            endpoints = ready_endpoints(slices["items"], port_name(found, port))
        if not endpoints:
            raise TransientError(
                f"service {name.namespace}/{name.name} has no ready endpoint on port {port}",
                code="service-not-ready",
                hint="see its pods",
            )
        return endpoints

    async def _service(
        self, client: httpx.AsyncClient, service: ServiceName | ServiceAddress
    ) -> dict[str, Any]:
        if isinstance(service, ServiceName):
            return await _get(
                client, f"/api/v1/namespaces/{service.namespace}/services/{service.name}", {}
            )
        selector = {"fieldSelector": f"spec.clusterIP={service.address}"}
        found = await _get(client, "/api/v1/services", selector)
        if not found["items"]:
            raise _unknown(f"no service has the address {service.address}")
        first: dict[str, Any] = found["items"][0]
        return first

    async def _connected(self) -> httpx.AsyncClient:
        try:
            changed_ns = self._kubeconfig.stat().st_mtime_ns
            if self._client is not None and changed_ns == self._read_at_ns:
                return self._client
        except OSError as error:
            raise _unusable(self._kubeconfig, error) from error
        fresh = read_client(self._kubeconfig)
        old, self._client, self._read_at_ns = self._client, fresh, changed_ns
        if old is not None:
            await old.aclose()
        return fresh


def read_client(kubeconfig: Path) -> httpx.AsyncClient:
    """Return a client of a kubeconfig's current context, to be closed by the caller.

    Raises:
        TransientError: the file cannot be used (yet).
    """
    try:
        return _client(yaml.safe_load(kubeconfig.read_text()), kubeconfig.parent)
    except (OSError, ValueError, KeyError, TypeError, IndexError, yaml.YAMLError) as error:
        raise _unusable(kubeconfig, error) from error


def port_name(service: dict[str, Any], port: int) -> str:
    """Return the name of a service's port ("" for an unnamed one): what its endpoints call it.

    Raises:
        PermanentError: the service has no such port.
    """
    for entry in service["spec"].get("ports") or []:
        if entry["port"] == port:
            return str(entry.get("name", ""))
    name = f"{service['metadata']['namespace']}/{service['metadata']['name']}"
    raise _unknown(f"service {name} has no port {port}")


def ready_endpoints(slices: list[dict[str, Any]], port: str) -> tuple[Endpoint, ...]:
    """Return the ready endpoints of EndpointSlices on a named port, at their loopback addresses.

    Source: discovery.k8s.io/v1: `ready` unset means ready.
    """
    return tuple(
        Endpoint(node_address(address), entry["port"])
        for one in slices
        for entry in one.get("ports") or []
        if (entry.get("name") or "") == port
        for endpoint in one.get("endpoints") or []
        if (endpoint.get("conditions") or {}).get("ready", True) is not False
        for address in endpoint["addresses"]
    )


def headless_endpoints(slices: list[dict[str, Any]], port: int) -> tuple[Endpoint, ...]:
    """Return the ready endpoints of a headless service: its name is their addresses, no more.

    Args:
        slices: of the service.
        port: that the client named, which nothing translates (Kubernetes, "DNS for Services").
    """
    addresses = {
        address
        for one in slices
        for endpoint in one.get("endpoints") or []
        if (endpoint.get("conditions") or {}).get("ready", True) is not False
        for address in endpoint["addresses"]
    }
    return tuple(Endpoint(node_address(address), port) for address in sorted(addresses))


async def _get(client: httpx.AsyncClient, path: str, query: dict[str, str]) -> dict[str, Any]:
    response = await client.get(path, params=query)
    if response.status_code == 404:
        raise _unknown(f"{path} does not exist")
    response.raise_for_status()
    body: dict[str, Any] = response.json()
    return body


def _unknown(message: str) -> PermanentError:
    return PermanentError(message, code="service-not-found", hint="kubectl get services -A")


def _unusable(kubeconfig: Path, error: Exception) -> TransientError:
    return TransientError(
        f"{kubeconfig} cannot be used: {error!r}",
        code="kubeconfig-unusable",
        hint="is the sandbox still starting?",
    )


def _client(config: dict[str, Any], folder: Path) -> httpx.AsyncClient:
    """Return a client of the kubeconfig's current context (token or client certificate)."""
    context = _named(config["contexts"], config["current-context"])["context"]
    cluster = _named(config["clusters"], context["cluster"])["cluster"]
    user = _named(config["users"], context["user"])["user"]
    return httpx.AsyncClient(
        base_url=cluster["server"],
        headers={"Authorization": f"Bearer {user['token']}"} if "token" in user else {},
        verify=_trust(cluster, user, folder),
        timeout=_TIMEOUT_S,
        trust_env=False,
    )


def _trust(cluster: dict[str, Any], user: dict[str, Any], folder: Path) -> ssl.SSLContext:
    trust = ssl.create_default_context()
    if "certificate-authority-data" in cluster:
        authority = base64.b64decode(cluster["certificate-authority-data"])
        trust.load_verify_locations(cadata=authority.decode())
    elif "certificate-authority" in cluster:
        trust.load_verify_locations(cafile=str(folder / cluster["certificate-authority"]))
    elif cluster.get("insecure-skip-tls-verify"):
        trust.check_hostname = False
        trust.verify_mode = ssl.CERT_NONE
    if "client-certificate" in user:
        trust.load_cert_chain(
            str(folder / user["client-certificate"]), str(folder / user["client-key"])
        )
    return trust


def _named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    for entry in entries:
        if entry["name"] == name:
            return entry
    raise KeyError(name)
