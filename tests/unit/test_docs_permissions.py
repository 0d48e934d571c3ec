"""The page of permissions grants what the code grants, no more and no less."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slipway.core.service import AutoscalerKind, Router, RouterKind, ServiceSpec
from slipway.manifests.accounts import (
    backup_rules,
    operate_rules,
    preflight_rules,
    release_rules,
    watch_rules,
)
from tests.examples import (
    autoscaling,
    service,
    service_backed_up_on_its_volume,
    service_on_a_volume,
)

PAGE = (Path(__file__).parents[2] / "docs/reference/permissions.md").read_text()
VERBS = r"\b(get|list|create|patch|delete|use)\b"
OF_A_ROUTE = {"services", "virtualservices", "destinationrules", "httproutes", "endpointslices"}
ROUTERS = {kind: replace(service(), router=Router(kind=kind)) for kind in RouterKind}
SHAPES = (
    service_on_a_volume(),
    service_backed_up_on_its_volume(),
    *ROUTERS.values(),
    *(replace(service(), autoscaling=autoscaling(kind)) for kind in AutoscalerKind),
)

Rights = set[tuple[str, str, str]]
"""(verb, `RESOURCE[.GROUP]`, name); the name is empty where it holds for all."""

Rules = Callable[[ServiceSpec], tuple[dict[str, Any], ...]]


def rows(title: str) -> Iterator[list[str]]:
    """Yield the cells of the tables of a section, without their heads."""
    text = PAGE.split(f"\n## {title}\n")[1].split("\n## ", maxsplit=1)[0]
    for line in text.splitlines():
        if line.startswith("| ") and not line.startswith(("| resource", "| router")):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def stated(title: str) -> Rights:
    """Return the rights that a section's table states, but for those of routes."""
    found: Rights = set()
    for cells in rows(title):
        if len(cells) != 3:
            continue
        resources = re.findall(r"`([a-z0-9./]+)`", cells[0])
        names = re.findall(r"`([A-Za-z-]+)`", cells[2]) or [""]
        verbs = re.findall(VERBS, re.sub(r"`[^`]*`", "", cells[1]))
        found |= {(verb, one, name) for verb in verbs for one in resources for name in names}
    return {right for right in found if right[1].split(".")[0] not in OF_A_ROUTE}


def granted(rules: Iterable[dict[str, Any]]) -> Rights:
    """Return the rights of rules, with the names that the page uses."""
    found: Rights = set()
    for rule in rules:
        for verb in rule["verbs"]:
            for name in rule.get("resourceNames", [""]):
                (group,), (resource, *more) = rule["apiGroups"], rule["resources"]
                for one in (resource, *more):
                    found.add((verb, f"{one}.{group}" if group else one, said(name)))
    return found


def said(name: str) -> str:
    meant = re.sub(r"\bchat\b", "SERVICE", name)
    return re.sub(r"\b(blue|green)\b", "SLOT", meant)


def of_routes(rights: Rights) -> set[tuple[str, str]]:
    return {
        (verb, resource.split(".")[0])
        for verb, resource, _ in rights
        if resource.split(".")[0] in OF_A_ROUTE
    }


@pytest.mark.parametrize(
    ("title", "rules_of"),
    [
        ("slipway-release", lambda spec: (*release_rules(spec), *preflight_rules())),
        ("slipway-watch", watch_rules),
        ("slipway-backup", backup_rules),
        ("slipway-operate", operate_rules),
    ],
)
def test_page_states_the_rights_of_each_account(title: str, rules_of: Rules) -> None:
    code: Rights = set()
    for spec in SHAPES:
        code |= granted(rules_of(spec))
    code = {right for right in code if right[1].split(".")[0] not in OF_A_ROUTE}
    # The names of the Secrets are the service file's.
    code = {(v, r, "" if r == "podsecrets.slipway.dev" else n) for v, r, n in code}
    page = {(v, r, "" if r == "podsecrets.slipway.dev" else n) for v, r, n in stated(title)}
    assert sorted(page) == sorted(code)


@pytest.mark.parametrize("kind", RouterKind)
def test_page_states_the_rights_on_the_route_of_each_router(kind: RouterKind) -> None:
    (cells,) = (row for row in rows("slipway-release") if row[0] == f"`{kind}`")
    page = {
        (verb, resource)
        for verbs, cell in zip((("get", "patch"), ("get",), ("list",)), cells[1:], strict=True)
        for verb in verbs
        for resource in re.findall(r"`([a-z]+)`", cell)
    }
    assert page == of_routes(granted(release_rules(ROUTERS[kind])))


@pytest.mark.parametrize("kind", RouterKind)
def test_watcher_and_people_have_the_route_alone_as_the_page_says(kind: RouterKind) -> None:
    release = of_routes(granted(release_rules(ROUTERS[kind])))
    route = {resource for verb, resource in release if verb == "patch"}
    slices = {("list", "endpointslices")} if kind is RouterKind.SERVICE else set()
    watch = {(verb, resource) for resource in route for verb in ("get", "patch")} | slices
    assert of_routes(granted(watch_rules(ROUTERS[kind]))) == watch
    assert of_routes(granted(operate_rules(ROUTERS[kind]))) == {("get", one) for one in route}
