"""Objects that belong to a release: its record, its lock, its orders, its events."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from slipway.core.errors import PermanentError
from slipway.core.release.orders import Order, order_from_storage, order_to_storage
from slipway.core.release.record import ReleaseRecord
from slipway.core.release.storage import from_storage, to_storage
from slipway.manifests.names import (
    FENCE_ANNOTATION,
    RELEASE_LABEL,
    Object,
    common_labels,
    metadata,
)
from slipway.ports.records import Lease, StoredOrders

RECORD_KEY = "record.json"
"""Key of the record in its ConfigMap."""

PHASE_ANNOTATION = "slipway.dev/phase"

_LONGEST_MESSAGE = 1024  # bytes; the API server refuses longer event messages
_NS_PER_S = 1_000_000_000
_NS_PER_US = 1_000


def record_name(service: str) -> str:
    """Return the name of the ConfigMap with a service's record."""
    return f"slipway-{service}"


def orders_name(service: str) -> str:
    """Return the name of the ConfigMap with the orders to whoever releases a service."""
    return f"slipway-{service}-orders"


def lease_name(service: str) -> str:
    """Return the name of a service's lock."""
    return f"slipway-{service}"


def record_config_map(
    record: ReleaseRecord, *, namespace: str, version: str | None = None
) -> Object:
    """Return the ConfigMap that stores `record`.

    `version` is the resourceVersion that guards the write; None when it must not exist yet.
    """
    meta = metadata(
        record_name(record.service),
        namespace,
        labels=common_labels(record.service),
        annotations={
            # For people and `kubectl get -o custom-columns`; only the JSON is read back.
            RELEASE_LABEL: record.release_id,
            PHASE_ANNOTATION: record.phase.value,
            FENCE_ANNOTATION: str(record.fence),  # for the API server, see `manifests.fence`
        },
    )
    if version is not None:
        meta["resourceVersion"] = version
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": meta,
        "data": {RECORD_KEY: to_storage(record)},
    }


def read_record(config_map: Mapping[str, Any]) -> ReleaseRecord:
    """Return the record that a ConfigMap stores.

    Raises:
        PermanentError: it holds no record, or one that cannot be read.
    """
    text = (config_map.get("data") or {}).get(RECORD_KEY)
    if text is None:
        meta = config_map["metadata"]
        raise PermanentError(
            f"ConfigMap {meta.get('namespace')}/{meta['name']} holds no release record",
            code="record-damaged",
            hint=f"restore its key {RECORD_KEY} from the release's evidence, or delete the"
            " ConfigMap when the service has never been released",
        )
    return from_storage(text)


def no_orders(service: str, namespace: str) -> Object:
    """Return the ConfigMap of a service's orders as it is installed: empty."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(orders_name(service), namespace, labels=common_labels(service)),
    }


def order_patch(order_id: str, order: Order | None) -> Object:
    """Return the merge patch that writes one order, or removes it when `order` is None.

    It names its own key alone: nothing is read first, so no other order can be lost.
    """
    return {"data": {order_id: None if order is None else order_to_storage(order)}}


def read_orders(config_map: Mapping[str, Any]) -> StoredOrders:
    """Return the orders that a ConfigMap stores; those that cannot be read by their key alone."""
    orders, unreadable = [], {}
    for key, text in sorted((config_map.get("data") or {}).items()):
        try:
            order = order_from_storage(text)
        except PermanentError as error:
            unreadable[key] = error.message
            continue
        if order.order_id == key:
            orders.append(order)
        else:
            unreadable[key] = f"it says that its id is {order.order_id}"
    return StoredOrders(orders=tuple(orders), unreadable=unreadable)


def free_lease(service: str, namespace: str) -> Object:
    """Return the lock as it is installed: held by nobody.

    It states no `leaseTransitions`, so that installing again leaves the fencing number alone.
    """
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata(lease_name(service), namespace, labels=common_labels(service)),
        "spec": {},
    }


def lease_spec(lease: Lease) -> Object:
    """Return the `spec` of a lock held as `lease` says; a holder of `""` gives it back."""
    return {
        "holderIdentity": lease.holder,
        "leaseDurationSeconds": max(1, math.ceil(lease.duration_s)),
        "leaseTransitions": lease.fence,
        "renewTime": micro_time(lease.renewed_at_ns),
    }


def read_lease(service: str, manifest: Mapping[str, Any]) -> Lease:
    """Return the lock that a Lease object states; `holder` is empty when it is free.

    Raises:
        PermanentError: its time of renewal cannot be read.
    """
    spec = manifest.get("spec") or {}
    renewed = spec.get("renewTime")
    return Lease(
        service=service,
        holder=spec.get("holderIdentity") or "",
        fence=spec.get("leaseTransitions") or 0,
        duration_s=float(spec.get("leaseDurationSeconds") or 0),
        version=str(manifest["metadata"].get("resourceVersion", "")),
        renewed_at_ns=0 if renewed is None else read_micro_time(str(renewed)),
    )


def micro_time(at_ns: int) -> str:
    """Return Unix nanoseconds as Kubernetes' MicroTime; what is below a microsecond is dropped."""
    seconds, rest_ns = divmod(at_ns, _NS_PER_S)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest_ns // _NS_PER_US:06d}Z"


def read_micro_time(text: str) -> int:
    """Return Kubernetes' Time or MicroTime as Unix nanoseconds.

    Raises:
        PermanentError: it is no time with a zone.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise _no_time(text) from error
    if moment.tzinfo is None:
        raise _no_time(text)
    # Whole seconds and microseconds apart: a float of seconds would lose digits.
    whole_s = int(moment.replace(microsecond=0).timestamp())
    return whole_s * _NS_PER_S + moment.microsecond * _NS_PER_US


def release_event(
    service: str, namespace: str, *, reason: str, message: str, warning: bool, at_ns: int
) -> Object:
    """Return a Kubernetes event about a service's record.

    Args:
        service: whose record it is about.
        namespace: of the service.
        reason: CamelCase, for example `Promoted`.
        message: for people; cut to what the API server takes.
        warning: type `Warning` instead of `Normal`.
        at_ns: Unix time.
    """
    moment = micro_time(at_ns)
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "generateName": f"{record_name(service)}.",
            "namespace": namespace,
            "labels": common_labels(service),
        },
        "involvedObject": involved_object(service, namespace),
        "reason": reason,
        "message": _cut(message),
        "type": "Warning" if warning else "Normal",
        # The fields of events.k8s.io/v1 and of the older form, so every reader shows the age.
        "eventTime": moment,
        "firstTimestamp": f"{moment[:19]}Z",
        "lastTimestamp": f"{moment[:19]}Z",
        "count": 1,
        "action": reason,
        "reportingComponent": "slipway.dev/release",
        "reportingInstance": record_name(service),
        "source": {"component": "slipway"},
    }


def involved_object(service: str, namespace: str) -> Object:
    """Return the reference by which `kubectl events --for configmap/NAME` finds the events."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "namespace": namespace,
        "name": record_name(service),
    }


def _cut(message: str) -> str:
    data = message.encode()
    if len(data) <= _LONGEST_MESSAGE:
        return message
    return data[: _LONGEST_MESSAGE - 3].decode(errors="ignore") + "…"


def _no_time(text: str) -> PermanentError:
    return PermanentError(
        f"{text!r} is no time as Kubernetes writes it",
        code="time-unreadable",
        hint="the object was edited by hand; delete the field, it is written again",
    )
