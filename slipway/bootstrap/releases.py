"""Ports of a release on a real installation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import httpx

from slipway.adapters.decorators import RetryingKubernetesApi
from slipway.adapters.kubernetes import KubernetesWorkloads
from slipway.adapters.kubernetes_autoscalers import KubernetesAutoscalers
from slipway.adapters.kubernetes_jobs import KubernetesBackupJobs
from slipway.adapters.kubernetes_objects import KubernetesObjects
from slipway.adapters.kubernetes_orders import KubernetesOrders
from slipway.adapters.kubernetes_preflight import KubernetesPreflight
from slipway.adapters.kubernetes_releases import KubernetesReleases
from slipway.adapters.mlflow import MlflowRegistry
from slipway.adapters.oci import OciImageStore
from slipway.adapters.routers import router
from slipway.adapters.routers.gateway import GatewayAccess
from slipway.adapters.s3 import S3ObjectStore
from slipway.adapters.server_metrics import ServerMetrics
from slipway.adapters.service_file import find_service, load_services
from slipway.core.errors import InputError
from slipway.core.routing import Route, all_to, empty
from slipway.core.service import ServiceSpec
from slipway.manifests.adoption.changes import is_adopted
from slipway.manifests.adoption.originals import Originals, originals_name, read_originals
from slipway.manifests.install import (
    beside_what_is_there,
    install_objects,
    only_when_absent,
    platform_objects,
)
from slipway.manifests.names import PLATFORM_NAMESPACE
from slipway.ports.backup_jobs import BackupJobs
from slipway.ports.models import ImageStore, ObjectStore, Registry
from slipway.ports.objects import Objects
from slipway.ports.records import Orders, Releases
from slipway.ports.traffic import HandOver, Metrics, Traffic
from slipway.ports.workloads import Autoscalers, Manifest, Preflight, Workloads
from slipway.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Everything a release of one service may touch."""

    settings: Settings
    spec: ServiceSpec
    preflight: Preflight
    releases: Releases
    orders: Orders
    workloads: Workloads
    autoscalers: Autoscalers
    traffic: Traffic
    metrics: Metrics
    registry: Registry
    images: ImageStore
    objects: ObjectStore


def connect(service: str, settings: Settings) -> Ports:
    """Return the ports of a service, wired to the installation that `settings` names.

    Raises:
        InputError: unknown service, or a service file with mistakes.
    """
    spec = find_service(settings.services, service)
    api = RetryingKubernetesApi(settings.kubeconfig, context=settings.context)
    return Ports(
        settings=settings,
        spec=spec,
        preflight=KubernetesPreflight(api, gateway_url=settings.gateway_url),
        releases=KubernetesReleases(api, namespace=spec.namespace),
        orders=KubernetesOrders(api, namespace=spec.namespace),
        workloads=KubernetesWorkloads(api),
        autoscalers=KubernetesAutoscalers(api),
        traffic=router(api, spec, _gateway(settings)),
        metrics=ServerMetrics(port=spec.server.port, proxy=settings.cluster_proxy),
        registry=registry(settings),
        images=OciImageStore(f"{settings.registry_scheme}://{settings.registry}"),
        objects=S3ObjectStore(bucket=settings.evidence_bucket, endpoint=settings.s3_endpoint),
    )


def administration(service: str, settings: Settings) -> tuple[Ports, Objects, HandOver]:
    """Return what taking over a live service needs, as an administrator.

    Raises:
        InputError: unknown service, or a service file with mistakes.
    """
    ports = connect(service, settings)
    api = RetryingKubernetesApi(settings.kubeconfig, context=settings.context)
    return ports, KubernetesObjects(api), router(api, ports.spec, _gateway(settings))


def _gateway(settings: Settings) -> GatewayAccess:
    return GatewayAccess(
        url=settings.gateway_url,
        admin_urls=settings.gateway_admin_urls,
        access_log=settings.access_log,
        cluster_proxy=settings.cluster_proxy,
        pod_prefix=settings.pod_prefix,
    )


def registry(settings: Settings) -> Registry:
    """Return the model registry alone."""
    return MlflowRegistry(settings.mlflow_url, cache=settings.cache)


def backup_jobs(settings: Settings) -> BackupJobs:
    """Return the Jobs that back up volumes."""
    return KubernetesBackupJobs(
        RetryingKubernetesApi(settings.kubeconfig, context=settings.context)
    )


def cluster_http(settings: Settings) -> httpx.Client:
    """Return a client that reaches pods and services by their in-cluster addresses."""
    return httpx.Client(proxy=settings.cluster_proxy, trust_env=False, timeout=30.0)


def install_services(settings: Settings, service: str | None = None) -> list[str]:
    """Put in place what releases need, as an administrator; returns a line per object written.

    Routes, locks and orders that exist belong to the releases and are left alone. A route that is
    missing begins with the slot that has the users by the service's record, if it can serve.

    Args:
        service: one service; None installs all service files.
    """
    specs = load_services(settings.services)
    if service is not None:
        specs = {service: find_service(settings.services, service)}
    api = RetryingKubernetesApi(settings.kubeconfig, context=settings.context)
    objects = KubernetesObjects(api)
    return put_in_place(
        objects,
        [
            *platform_objects(settings.pod_registries),
            *(
                manifest
                for spec in specs.values()
                for manifest in install_objects(
                    spec, _route_now(api, spec), adopted=adopted_with(objects, spec)
                )
            ),
        ],
    )


def put_in_place(objects: Objects, wanted: Sequence[Manifest]) -> list[str]:
    """Write an installation beside what is there, tried as a whole first; a line per object.

    Raises:
        InputError: `namespace-missing`, a service's own namespace is not there.
        PermanentError: the API server refuses something; when it can be tried, before any write.
    """
    manifests = [_beside(objects, manifest) for manifest in wanted]
    due = [not _is_left(objects, manifest) for manifest in manifests]
    _rehearse(objects, [item for item, writes in zip(manifests, due, strict=True) if writes])
    said = []
    for manifest, writes in zip(manifests, due, strict=True):
        if writes:
            objects.apply(manifest)
        what = "applied" if writes else "left as it is"
        said.append(f"{manifest['kind']} {manifest['metadata']['name']}: {what}")
    return said


def _rehearse(objects: Objects, manifests: Iterable[Manifest]) -> None:
    """Have the API server refuse in a dry run what it would refuse later.

    Raises:
        InputError: `namespace-missing`, a service's own namespace is not there.
        PermanentError: refused, with the server's message; nothing was written.
    """
    there: dict[str, bool] = {}
    for manifest in manifests:
        meta = manifest["metadata"]
        needed = meta["name"] if manifest["kind"] == "Namespace" else meta.get("namespace", "")
        if needed and needed not in there:
            there[needed] = objects.get("Namespace", None, needed) is not None
        if needed and not there[needed]:
            if needed != PLATFORM_NAMESPACE:
                raise InputError(
                    f"there is no namespace {needed}",
                    code="namespace-missing",
                    hint=f"make it first: kubectl create namespace {needed}",
                )
            continue  # it is made first of all, and nothing in it can be tried before
        objects.apply(manifest, dry_run=True)


def _route_now(api: RetryingKubernetesApi, spec: ServiceSpec) -> Route:
    """Return whose the users are: a route that is made anew, or of another router, goes on so.

    Raises:
        PermanentError: the service's record cannot be read.
    """
    stored = KubernetesReleases(api, namespace=spec.namespace).load(spec.name)
    slot = None if stored is None else stored.record.live_slot
    if stored is None or slot is None:
        return empty(spec.name)
    workload = stored.record.slot(slot).workload
    observed = KubernetesWorkloads(api).observe(spec.namespace, workload)
    serves = observed is not None and bool(observed.ready_pods)
    return all_to(spec.name, slot) if serves else empty(spec.name)


def stored_originals(objects: Objects, spec: ServiceSpec) -> Originals | None:
    """Return what was there before a service was adopted; None where it was not.

    Raises:
        PermanentError: `originals-damaged`.
    """
    found = objects.get("ConfigMap", spec.namespace, originals_name(spec.name))
    return None if found is None else read_originals(found)


def adopted_with(objects: Objects, spec: ServiceSpec) -> str:
    """Return the name of the Deployment that a service was adopted with; "" without one."""
    originals = stored_originals(objects, spec)
    return "" if originals is None else originals.live.workload


def _found(objects: Objects, manifest: Manifest) -> Manifest | None:
    meta = manifest["metadata"]
    return objects.get(manifest["kind"], meta.get("namespace"), meta["name"])


def _beside(objects: Objects, manifest: Manifest) -> Manifest:
    if manifest["kind"] != "Namespace":
        return manifest
    return beside_what_is_there(manifest, _found(objects, manifest))


def _is_left(objects: Objects, manifest: Manifest) -> bool:
    """Return whether an object is there that an installation must not write."""
    if not only_when_absent(manifest) and manifest["kind"] != "Service":
        return False
    found = _found(objects, manifest)
    return found is not None and (only_when_absent(manifest) or is_adopted(found))
