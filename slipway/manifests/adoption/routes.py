"""Hand-written routes: which of their rules are the service's, and what they say beyond it.

Slipway's own route is one rule a service: paths to slots. Whatever a hand-written rule says beyond
paths would silently be lost, so it is either refused, or named when nothing depends on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slipway.core.service import ServiceSpec
from slipway.manifests.adoption.live import Obstacle, route_gateways, route_hosts
from slipway.manifests.lint.finding import host, namespace, subject
from slipway.manifests.names import host_of
from slipway.ports.workloads import Manifest

Rule = Mapping[str, Any]

_LET_GO = {
    "timeout": "its time limit",
    "timeouts": "its time limits",
    "retries": "its retries",
}
"""Parts of a rule that a route of Slipway has its own of: streams end by themselves."""

_KNOWN = frozenset({"name", "match", "matches", "route", "backendRefs", *_LET_GO})


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a hand-written route says.

    Args:
        ours: rules that lead to the service.
        kept: rules of others; they stay where they are.
        obstacles: what a route of Slipway cannot say.
        notes: what will hold no longer.
    """

    ours: tuple[Rule, ...]
    kept: tuple[Rule, ...]
    obstacles: tuple[Obstacle, ...]
    notes: tuple[str, ...]


def rules_key(route: Manifest) -> str:
    """Return the field that the rules of a route stand in."""
    return "http" if route["kind"] == "VirtualService" else "rules"


def read_by_hand(spec: ServiceSpec, route: Manifest) -> Reading:
    """Return what a route that somebody wrote says of a service."""
    rules: Sequence[Rule] = route["spec"].get(rules_key(route)) or ()
    ours = tuple(rule for rule in rules if spec.name in _targets(spec, route, rule))
    kept = tuple(rule for rule in rules if rule not in ours)
    return Reading(
        ours=ours,
        kept=kept,
        obstacles=(
            *_of_the_object(spec, route, kept),
            *(item for rule in ours for item in _of_a_rule(spec, route, rule)),
            *(item for rule in kept for item in _hides(spec, route, rule)),
        ),
        notes=tuple(
            f"{subject(route)}: {said} holds no longer ({rule[key]})"
            for rule in ours
            for key, said in _LET_GO.items()
            if key in rule
        ),
    )


def _targets(spec: ServiceSpec, route: Manifest, rule: Rule) -> tuple[str, ...]:
    """Return where a rule leads; the service itself by its name."""
    wanted = host_of(spec.name, spec.namespace)
    if route["kind"] == "VirtualService":
        hosts = [host(item["destination"]["host"], route) for item in rule.get("route") or ()]
    else:
        own = namespace(route)
        hosts = [
            host_of(item["name"], item.get("namespace", own))
            for item in rule.get("backendRefs") or ()
        ]
    return tuple(spec.name if name == wanted else name for name in hosts)


def _of_the_object(spec: ServiceSpec, route: Manifest, kept: Sequence[Rule]) -> Iterator[Obstacle]:
    name = subject(route)
    for more in sorted(set(route_hosts(route)) - set(spec.hosts) - _own_hosts(spec)):
        yield Obstacle(
            subject=name,
            message=f"it is for host {more}, too",
            hint=f"add {more} to hosts of the service file, or give it a route of its own",
        )
    for more in sorted(set(route_gateways(route)) - {spec.router.gateway, "mesh"}):
        yield Obstacle(
            subject=name,
            message=f"users come by gateway {more}, too",
            hint="a service has one gateway: give the other one a route of its own",
        )
    for key in sorted({"tls", "tcp", "exportTo"} & route["spec"].keys()):
        yield Obstacle(
            subject=name,
            message=f"it has {key}, which a route of Slipway has not",
            hint=f"move {key} into an object of its own, or remove it",
        )
    if kept and (route["metadata"]["name"], namespace(route)) == (spec.name, spec.namespace):
        yield Obstacle(
            subject=name,
            message="it has rules of other services, and its name is that of Slipway's own route",
            hint="move these rules into an object of another name",
        )


def _own_hosts(spec: ServiceSpec) -> set[str]:
    """Return the names of the Service inside the cluster, short to full."""
    parts = host_of(spec.name, spec.namespace).split(".")
    return {".".join(parts[:length]) for length in (1, 2, 3, 5)}


def _of_a_rule(spec: ServiceSpec, route: Manifest, rule: Rule) -> Iterator[Obstacle]:
    name = f"{subject(route)}, rule {rule.get('name', 'without name')}"
    others = sorted(set(_targets(spec, route, rule)) - {spec.name})
    if others:
        yield Obstacle(
            subject=name,
            message=f"it divides the users between {spec.name} and {', '.join(others)}",
            hint="give all of them to one of the two first",
        )
    for key in sorted(rule.keys() - _KNOWN):
        yield Obstacle(
            subject=name,
            message=f"it says {key}, which a route of Slipway cannot",
            hint=f"remove {key}, or let another proxy do it",
        )
    for backend in (*(rule.get("route") or ()), *(rule.get("backendRefs") or ())):
        for key in sorted({"headers", "filters"} & backend.keys()):
            yield Obstacle(
                subject=name,
                message=f"it says {key} of a destination, which a route of Slipway cannot",
                hint=f"remove {key}, or let another proxy do it",
            )
    for match in _matches(rule):
        yield from _of_a_match(spec, name, match)


def _matches(rule: Rule) -> Sequence[Mapping[str, Any]]:
    # A rule without any matches everything.
    return rule.get("match") or rule.get("matches") or ({},)


def _of_a_match(spec: ServiceSpec, name: str, match: Mapping[str, Any]) -> Iterator[Obstacle]:
    for key in sorted(match.keys() - {"uri", "path", "name"}):
        yield Obstacle(
            subject=name,
            message=f"it matches by {key}, which a route of Slipway cannot",
            hint=f"serve every request of its paths alike, whatever its {key}",
        )
    how, path = _path(match)
    if how == "regex":
        yield Obstacle(
            subject=name,
            message=f"it matches the regular expression {path}",
            hint="name prefixes instead",
        )
    elif not any(_is_below(path, prefix) for prefix in spec.path_prefixes):
        yield Obstacle(
            subject=name,
            message=f"users may ask for {path}, which path_prefixes of the service file leaves out",
            hint=f"add {path} to path_prefixes ({', '.join(spec.path_prefixes)})",
        )


def _path(match: Mapping[str, Any]) -> tuple[str, str]:
    """Return how a match names its path, `prefix`, `exact` or `regex`, and the path."""
    if "uri" in match:
        ((how, path),) = match["uri"].items()
        return how, path
    said = match.get("path") or {}
    how = {"Exact": "exact", "RegularExpression": "regex"}.get(said.get("type", ""), "prefix")
    return how, str(said.get("value", "/"))


def _is_below(path: str, prefix: str) -> bool:
    whole = prefix.rstrip("/")
    return path == prefix or path.startswith(f"{whole}/")


def _hides(spec: ServiceSpec, route: Manifest, rule: Rule) -> Iterator[Obstacle]:
    """Yield what of a rule that stays would come before the service's own.

    Rules of the older VirtualService of a host come first; of HTTPRoutes the longer path wins, and
    of equal ones the older.
    """
    older_first = route["kind"] == "VirtualService"
    for match in _matches(rule):
        if match.keys() - {"uri", "path", "name"}:
            continue  # narrower than a path
        how, path = _path(match)
        for prefix in spec.path_prefixes:
            hidden = _is_below(prefix, path) if older_first else prefix == path
            if how != "exact" and hidden:
                yield Obstacle(
                    subject=f"{subject(route)}, rule {rule.get('name', 'without name')}",
                    message=f"it leads elsewhere and would come before {prefix} of this service",
                    hint="move it into an object that is younger, or narrow its path",
                )
