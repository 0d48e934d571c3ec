"""Looks at a Kubernetes cluster before the first write of a release."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from slipway.adapters.kubernetes_api import KubernetesApi, object_path
from slipway.adapters.tls_certificate import shown_certificate
from slipway.core.errors import PermanentError
from slipway.core.feasibility.values import Certificate, Right, Unseen
from slipway.manifests.autoscaling import HPA, SCALED_OBJECT
from slipway.manifests.rights import access_review
from slipway.ports.workloads import Look
from slipway.retries import call_with_retries

_OF_A_NAMESPACE = (
    *("Deployment", "Pod", HPA, SCALED_OBJECT),
    *("PodDisruptionBudget", "ResourceQuota", "LimitRange"),
)
_PAGE = "500"
# A release asks sixty times before it begins. With three attempts each an API server that fails
# every fifth call would refuse every third release.
_ATTEMPTS = 6
_ROUNDS = 2  # of reads, whose connection makes three attempts by itself
_NOT_ENDED = "status.phase!=Succeeded,status.phase!=Failed"


class KubernetesPreflight:
    """The Preflight port on the API server, and on the gateway for its certificate.

    Args:
        api: the connection.
        gateway_url: base URL that users call.
    """

    def __init__(self, api: KubernetesApi, *, gateway_url: str) -> None:
        self._api = api
        self._gateway_url = gateway_url

    def missing_rights(self, rights: Sequence[Right]) -> tuple[Right, ...]:
        """Ask by a SelfSubjectAccessReview each; see `slipway.ports.Preflight`."""
        return tuple(right for right in rights if not self._allowed(right))

    def _allowed(self, right: Right) -> bool:
        path = object_path("SelfSubjectAccessReview", None)
        review = access_review(right)
        # Nothing is stored, so it may be asked again.
        answer = call_with_retries(
            lambda: self._api.call("POST", path, body=review), attempts=_ATTEMPTS
        )
        return bool(answer["status"]["allowed"])

    def namespace(self, namespace: str) -> Look:
        """List a namespace; see `slipway.ports.Preflight`."""
        return _together([self._listed(kind, namespace) for kind in _OF_A_NAMESPACE])

    def routes(self, namespace: str, names: Sequence[tuple[str, str]]) -> Look:
        """Read them by name; see `slipway.ports.Preflight`."""
        looks = []
        for kind, name in names:
            try:
                found = self._get(object_path(kind, namespace, name))
            except PermanentError as error:
                looks.append(_unseen(f"{kind} {namespace}/{name}", error))
            else:
                looks.append(Look(objects=() if found is None else (found,)))
        return _together(looks)

    def nodes(self) -> Look:
        """List the nodes; see `slipway.ports.Preflight`."""
        return self._listed("Node", None)

    def pods(self) -> Look:
        """List the pods of all namespaces; see `slipway.ports.Preflight`."""
        return self._listed("Pod", None, fieldSelector=_NOT_ENDED)

    def certificate(self, host: str) -> Certificate | None:
        """Ask the gateway; see `slipway.ports.Preflight`."""
        return call_with_retries(lambda: shown_certificate(self._gateway_url, host))

    def _get(self, path: str, query: dict[str, str] | None = None) -> dict[str, Any] | None:
        return call_with_retries(lambda: self._api.get(path, query), attempts=_ROUNDS)

    def _listed(self, kind: str, namespace: str | None, **query: str) -> Look:
        try:
            return Look(objects=tuple(self._each(kind, namespace, query)))
        except PermanentError as error:
            where = f"in {namespace}" if namespace else "in all namespaces"
            return _unseen(f"{kind}s {where}", error)

    def _each(
        self, kind: str, namespace: str | None, query: dict[str, str]
    ) -> Iterator[dict[str, Any]]:
        after = ""
        while True:
            paged = {**query, "limit": _PAGE, **({"continue": after} if after else {})}
            # A cluster that does not know the kind has no object of it.
            found = self._get(object_path(kind, namespace), paged) or {}
            for item in found.get("items") or ():
                yield {**item, "kind": kind}  # items of a list do not say what they are
            after = found.get("metadata", {}).get("continue", "")
            if not after:
                return


def _unseen(what: str, error: PermanentError) -> Look:
    """Return what may not be read.

    Raises:
        PermanentError: it failed for another reason.
    """
    if error.code != "forbidden":
        raise error
    return Look(objects=(), unseen=(Unseen(what=what, why="not allowed to read them"),))


def _together(looks: Sequence[Look]) -> Look:
    return Look(
        objects=tuple(item for look in looks for item in look.objects),
        unseen=tuple(item for look in looks for item in look.unseen),
    )
