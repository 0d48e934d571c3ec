"""What the audit log of an API server says: rights granted, rights used, calls that must not be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slipway.manifests.install import install_objects, platform_objects
from slipway.sandbox import audit as sandbox_audit
from slipway.sandbox.home import SandboxHome
from tests.e2e.audit import (
    Audit,
    Used,
    calls_since,
    difference,
    events,
    log_end,
    read_audit,
)
from tests.examples import service

RELEASE = "system:serviceaccount:serving:slipway-release"
LEASE = ("leases", "coordination.k8s.io")


def written(manifest: dict[str, Any], code: int = 201) -> dict[str, Any]:
    """Return the line of an administrator who applies a Role or a binding."""
    meta = manifest["metadata"]
    return line(
        "slipway-admin",
        "patch",
        (f"{manifest['kind'].lower()}s", "rbac.authorization.k8s.io"),
        meta["name"],
        namespace=meta.get("namespace", ""),
        code=code,
        requestObject=manifest,
    )


def line(
    user: str,
    verb: str,
    what: tuple[str, str],
    name: str = "",
    *,
    namespace: str = "serving",
    code: int = 200,
    **more: Any,
) -> dict[str, Any]:
    resource, _, sub = what[0].partition("/")
    about = {"resource": resource, "subresource": sub, "apiGroup": what[1], "name": name}
    decision = {"authorization.k8s.io/decision": more.pop("decision", "allow")}
    return {
        "stage": "ResponseComplete",
        "verb": verb,
        "user": {"username": user},
        "requestURI": more.pop("uri", "/somewhere"),
        "objectRef": {**about, **({"namespace": namespace} if namespace else {})},
        "responseStatus": {"code": code},
        "annotations": decision,
        **more,
    }


def audit_of(*lines: dict[str, Any]) -> Audit:
    """Return what the log says of an installed service `chat` and then of these lines."""
    found = Audit()
    installed = (*platform_objects(["registry"]), *install_objects(service()))
    roles = [item for item in installed if "Role" in item["kind"]]
    for one in (*(written(item) for item in roles), *lines):
        found.learn(one)
    found.close()
    return found


def by_release(verb: str, what: tuple[str, str], name: str = "", **more: Any) -> dict[str, Any]:
    return line(RELEASE, verb, what, name, **more)


def test_call_that_a_role_grants_uses_that_right_of_the_service_whatever_its_name() -> None:
    found = audit_of(
        by_release("patch", LEASE, "slipway-chat"),
        by_release("get", ("deployments", "apps"), "chat-green"),
        by_release("get", ("pods/log", ""), "chat-blue-1"),
        by_release("patch", ("virtualservices", "networking.istio.io"), "chat"),
    )
    account = "slipway-release"
    assert found.faults() == []
    assert found.used == {
        Used(account, "patch", "leases.coordination.k8s.io", "slipway-SERVICE"),
        Used(account, "get", "deployments.apps", "SERVICE-SLOT"),
        Used(account, "get", "pods/log."),
        Used(account, "patch", "virtualservices.networking.istio.io", "SERVICE", "istio"),
    }
    assert found.used < found.granted


def test_right_that_nothing_uses_is_named() -> None:
    unused = difference(audit_of(by_release("patch", LEASE, "slipway-chat")))
    assert "never used: slipway-release: create events." in unused
    assert "never used: slipway-watch: list pods." in unused
    used = "never used: slipway-release: patch leases.coordination.k8s.io slipway-SERVICE"
    assert used not in unused
    assert used.replace("patch", "get") in unused


def test_apply_that_makes_an_object_uses_both_rights() -> None:
    patched = Used("slipway-release", "patch", "deployments.apps", "SERVICE-SLOT")
    created = Used("slipway-release", "create", "deployments.apps")
    call = by_release("patch", ("deployments", "apps"), "chat-blue", code=200)
    assert audit_of(call).used == {patched}
    call["responseStatus"]["code"] = 201
    assert audit_of(call).used == {patched, created}


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        (by_release("get", ("secrets", ""), "s"), "touches secrets"),
        (by_release("list", ("secrets", "")), "touches secrets"),
        (by_release("get", LEASE, "slipway-chat", decision="forbid"), "was refused"),
        (by_release("patch", ("nodes", ""), "a", namespace=""), "writes to the whole cluster"),
        (by_release("get", ("nodes", ""), "a", namespace=""), "no Role grants it"),
        (by_release("get", LEASE, "slipway-other"), "no Role grants it"),
        (by_release("get", LEASE, "slipway-chat", namespace="other"), "no Role grants it"),
        (by_release("watch", ("pods", "")), "no Role grants it"),
    ],
)
def test_call_that_must_not_be_is_a_fault(call: dict[str, Any], fault: str) -> None:
    (found,) = audit_of(call).faults()
    assert fault in found
    assert found.startswith("slipway-release: ")


def ready(code: int, user: str = RELEASE) -> dict[str, Any]:
    said = line(user, "get", ("", ""), uri="/readyz", code=code)
    del said["objectRef"]
    return said


@pytest.mark.parametrize(
    ("later", "faults"),
    [
        ([ready(500)], 0),
        ([ready(200), "allowed"], 0),
        ([ready(500), "refused", ready(200), "allowed"], 0),
        ([], 1),
        (["allowed"], 1),
        ([ready(200)], 1),
        ([ready(200), "refused"], 1),
        ([ready(200), "refused", "allowed"], 1),
        ([ready(500), "refused"], 1),
        ([ready(500, "system:serviceaccount:other:slipway-release")], 1),
    ],
)
def test_refusal_of_a_server_that_has_not_read_its_roles_is_no_fault(
    later: list[Any], faults: int
) -> None:
    calls = {
        "refused": by_release("get", LEASE, "slipway-chat", decision="forbid", code=403),
        "allowed": by_release("get", LEASE, "slipway-chat"),
    }
    log = [calls["refused"], *(calls[item] if isinstance(item, str) else item for item in later)]
    assert ["was refused" in fault for fault in audit_of(*log).faults()] == [True] * faults


@pytest.mark.parametrize(
    "call",
    [
        line("slipway-admin", "delete", ("secrets", ""), "s"),
        line("system:serviceaccount:other:slipway-release", "get", ("secrets", ""), "s"),
        by_release("create", ("selfsubjectaccessreviews", "authorization.k8s.io"), namespace=""),
    ],
)
def test_calls_of_others_and_questions_about_rights_do_not_count(call: dict[str, Any]) -> None:
    found = audit_of(call)
    assert (found.calls, found.faults()) == ({}, [])


def test_dry_run_writes_nothing_and_uses_the_right() -> None:
    found = audit_of(by_release("patch", LEASE, "slipway-chat", uri="/x?dryRun=All"))
    assert [call.writes for call in found.calls] == [False]
    assert len(found.used) == 1


def test_role_that_was_refused_or_that_a_test_narrows_grants_nothing() -> None:
    role = next(item for item in install_objects(service()) if item["kind"] == "Role")
    more = {**role, "rules": [{"apiGroups": [""], "resources": ["x"], "verbs": ["get"]}]}
    narrowed = written({**role, "kind": "Role"})
    narrowed["requestObject"] = {"rules": more["rules"]}
    assert audit_of(written(more, code=403), narrowed).granted == audit_of().granted


def test_right_that_only_the_admission_policy_asks_for_is_never_called() -> None:
    assert not [right for right in audit_of().granted if "podsecrets" in right.resource]


def test_log_is_read_with_its_older_files_and_without_the_line_being_written(
    tmp_path: Path,
) -> None:
    home = SandboxHome(tmp_path)
    now = sandbox_audit.audit_log(home)
    now.parent.mkdir()
    now.with_name("audit-2026-01-01T00-00-00.000.log").write_text('{"n": 1}\n')
    now.write_text('{"n": 2}\n{"n": 3}\n{"n": 4, "half')
    assert [item["n"] for item in events(home)] == [1, 2, 3]


def test_calls_since_a_moment_are_told_in_order_also_over_a_new_file(tmp_path: Path) -> None:
    home = SandboxHome(tmp_path)
    now = sandbox_audit.audit_log(home)
    now.parent.mkdir()

    def logged(*names: str) -> str:
        lines = (by_release("get", LEASE, name) for name in names)
        return "".join(f"{json.dumps(one)}\n" for one in lines)

    now.write_text(logged("a"))
    end = log_end(home)
    now.write_text(logged("a", "b"))
    assert [call.name for call in calls_since(home, end)] == ["b"]
    now.rename(now.with_name("audit-2026-01-01T00-00-00.000.log"))
    now.write_text(logged())
    assert [call.name for call in calls_since(home, end)] == ["b"]


def test_logs_of_several_sandboxes_are_taken_together(tmp_path: Path) -> None:
    homes = [SandboxHome(tmp_path / name) for name in "ab"]
    roles = [item for item in install_objects(service()) if "Role" in item["kind"]]
    calls = (by_release("get", LEASE, "slipway-chat"), by_release("list", ("pods", "")))
    for home, call in zip(homes, calls, strict=True):
        log = sandbox_audit.audit_log(home)
        log.parent.mkdir(parents=True)
        lines = (*(written(role) for role in roles), call)
        log.write_text("".join(f"{json.dumps(one)}\n" for one in lines))
    found = read_audit([*homes, SandboxHome(tmp_path / "never-started")])
    assert {(right.verb, right.resource) for right in found.used} == {
        ("get", "leases.coordination.k8s.io"),
        ("list", "pods."),
    }


def test_sandbox_logs_service_accounts_and_what_is_granted_but_no_part_of_its_own() -> None:
    policy = sandbox_audit.audit_policy()
    levels = [rule["level"] for rule in policy["rules"]]
    assert levels == ["None", "Request", "Metadata", "None"]
    assert policy["rules"][0]["userGroups"] == ["system:serviceaccounts:kube-system"]
    assert policy["rules"][2]["userGroups"] == ["system:serviceaccounts"]
    secret = {"resources": ["secrets"]}
    assert all(secret not in rule.get("resources", []) for rule in policy["rules"])
