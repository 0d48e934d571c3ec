"""The doors to the outside: what a release needs of the world, in few verbs each.

Every verb says whether it may be repeated and which errors it raises. Adapters map every client
error to `slipway.core.errors`; `slipway/retries.py` has the retries.
"""

from slipway.ports.models import (
    Image,
    ImageStore,
    ModelFile,
    ModelVersion,
    ObjectStore,
    Registry,
)
from slipway.ports.objects import Objects
from slipway.ports.records import (
    Lease,
    Orders,
    Releases,
    StoredOrders,
    StoredRecord,
)
from slipway.ports.traffic import (
    Backend,
    HandOver,
    Metrics,
    RouteProof,
    Traffic,
    WayIn,
)
from slipway.ports.workloads import (
    Applied,
    Autoscalers,
    Look,
    Manifest,
    Preflight,
    Workloads,
)

__all__ = [
    "Applied",
    "Autoscalers",
    "Backend",
    "HandOver",
    "Image",
    "ImageStore",
    "Lease",
    "Look",
    "Manifest",
    "Metrics",
    "ModelFile",
    "ModelVersion",
    "ObjectStore",
    "Objects",
    "Orders",
    "Preflight",
    "Registry",
    "Releases",
    "RouteProof",
    "StoredOrders",
    "StoredRecord",
    "Traffic",
    "WayIn",
    "Workloads",
]
