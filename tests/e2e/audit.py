"""Which rights were granted and which were used, read off the API server's audit log.

The log of the sandbox has every call of a service account and every Role that was written
(`slipway.sandbox.audit`). Services differ in name and router: so what is compared are rights of
`SERVICE`, and of each router where the objects of a route are meant. A slot is `SLOT`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slipway.manifests.names import (
    BACKUP_ACCOUNT,
    OPERATE_ROLE,
    PLATFORM_NAMESPACE,
    RELEASE_ACCOUNT,
    SERVICE_LABEL,
    WATCH_ACCOUNT,
)
from slipway.manifests.pod_policy import SECRET_GROUP
from slipway.sandbox.audit import audit_log
from slipway.sandbox.home import SandboxHome

ACCOUNTS = (RELEASE_ACCOUNT, WATCH_ACCOUNT, BACKUP_ACCOUNT, OPERATE_ROLE)
"""Those that are looked at; the last one is made by a test, for people have no account of ours."""

Event = Mapping[str, Any]

_USERS = {f"system:serviceaccount:{PLATFORM_NAMESPACE}:{name}": name for name in ACCOUNTS}
_RBAC = "rbac.authorization.k8s.io"
_REVIEWS = frozenset({"authorization.k8s.io", "authentication.k8s.io"})
"""Questions about rights of one's own: everybody may ask them, and nothing is stored."""

_READS = frozenset({"get", "list", "watch"})
_OF_A_SLOT = frozenset({"deployments", "horizontalpodautoscalers", "scaledobjects"})
_OF_A_ROUTE = frozenset({"services", "virtualservices", "destinationrules", "httproutes"})


@dataclass(frozen=True, order=True, slots=True)
class Used:
    """One right of an account, with `SERVICE` and `SLOT` for what differs.

    Args:
        account: whose.
        verb: of the API.
        resource: `RESOURCE[/SUBRESOURCE].GROUP`.
        name: of the object; empty holds for all.
        router: whose objects are meant; empty where it makes no difference.
    """

    account: str
    verb: str
    resource: str
    name: str = ""
    router: str = ""

    def __str__(self) -> str:
        """Return it as a line of a list."""
        named = f" {self.name}" if self.name else ""
        return f"{self.account}: {self.verb} {self.resource}{named}" + (
            f" ({self.router})" if self.router else ""
        )


@dataclass(frozen=True, slots=True)
class Call:
    """One answered request of an account.

    Args:
        account: whose.
        verb: of the API.
        resource: `RESOURCE[/SUBRESOURCE].GROUP`.
        namespace: empty for what belongs to the whole cluster.
        name: empty for a list, or for what gets its name by its body.
        code: HTTP status.
        dry_run: nothing was to be stored.
        forbidden: no Role allows it.
        uri: of the request.
    """

    account: str
    verb: str
    resource: str
    namespace: str
    name: str
    code: int
    dry_run: bool
    forbidden: bool
    uri: str

    @property
    def writes(self) -> bool:
        """Whether it could have changed something."""
        return self.verb not in _READS and not self.dry_run

    def __str__(self) -> str:
        """Return it as a line of a list."""
        return f"{self.account}: {self.verb} {self.resource} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class _Role:
    service: str
    rules: tuple[Mapping[str, Any], ...]


@dataclass(slots=True)
class Audit:
    """What the log says of the accounts.

    Args:
        calls: each kind of call once.
        used: the rights that they took.
    """

    calls: dict[Call, None] = field(default_factory=dict)
    used: set[Used] = field(default_factory=set)
    _refused: dict[tuple[str, ...], Call] = field(default_factory=dict)
    _asked_ready: set[tuple[str, ...]] = field(default_factory=set)
    _roles: dict[tuple[str, str], list[_Role]] = field(default_factory=dict)
    _bound: dict[str, dict[tuple[str, str, str], None]] = field(default_factory=dict)

    @property
    def granted(self) -> set[Used]:
        """Every right that any Role gave; what only the admission policy asks for is none."""
        return {
            right
            for account, bindings in self._bound.items()
            for where, kind, name in bindings
            for role in self._roles_of(where, kind, name)
            for rule in role.rules
            for right in _rights(account, role, rule)
            if not right.resource.endswith(f".{SECRET_GROUP}")
        }

    def faults(self) -> list[str]:
        """Return the calls that must not have been made; empty when all is well."""
        found = []
        for call in self.calls:
            if re.split("[/.]", call.resource)[0] == "secrets":
                found.append(f"{call}: touches secrets")
            elif call.forbidden:
                found.append(f"{call}: was refused")
            elif call.writes and not call.namespace:
                found.append(f"{call}: writes to the whole cluster")
            elif not self._rights_of(call):
                found.append(f"{call}: no Role grants it")
        return found

    def learn(self, event: Event) -> None:
        """Take a line of the log."""
        about = event.get("objectRef")
        if event.get("stage") not in {"ResponseComplete", "ResponseStarted"}:
            return
        if event["requestURI"] == "/readyz":
            self._learn_ready(_USERS.get(event["user"]["username"]), event)
        if about is None:
            return
        if about.get("apiGroup", "") == _RBAC:
            self._learn_role(event, about)
        call = call_of(event)
        if call is not None:
            self._learn_call(call)

    def _learn_call(self, call: Call) -> None:
        """Take a call; one that was refused only counts once it is known that it was meant.

        An API server that has just started refuses everybody until it has read its Roles. The
        client asks it at `/readyz`, and when it is ready for the same once more.
        """
        request = _request(call)
        if call.forbidden and request not in self._asked_ready:
            self._refused[request] = call
            return
        if request in self._asked_ready:
            self._asked_ready.discard(request)
            del self._refused[request]
        self.calls[call] = None

    def _learn_ready(self, account: str | None, event: Event) -> None:
        for request in [request for request in self._refused if request[0] == account]:
            if event["responseStatus"]["code"] == 200:
                self._asked_ready.add(request)
            else:
                del self._refused[request]
                self._asked_ready.discard(request)

    def close(self) -> None:
        """Work out which rights the calls took, once all Roles are known."""
        self.calls.update(dict.fromkeys(self._refused.values()))
        self.used = {right for call in self.calls for right in self._rights_of(call)}

    def _learn_role(self, event: Event, about: Mapping[str, Any]) -> None:
        written, code = event.get("requestObject"), event.get("responseStatus", {}).get("code", 0)
        if not isinstance(written, dict) or not 200 <= code < 300:
            return
        meta = written.get("metadata", {})
        where, name = about.get("namespace", ""), about.get("name") or meta.get("name", "")
        if "roleRef" in written:
            ref = written["roleRef"]
            for subject in written.get("subjects", ()):
                user = f"system:serviceaccount:{subject.get('namespace')}:{subject['name']}"
                if user in _USERS:
                    bound = self._bound.setdefault(_USERS[user], {})
                    bound[where, ref["kind"], ref["name"]] = None
        elif "rules" in written and "labels" in meta:  # else a test takes some of it away
            service = meta["labels"].get(SERVICE_LABEL, "")
            self._roles.setdefault((where, name), []).append(
                _Role(service, tuple(written["rules"]))
            )

    def _roles_of(self, where: str, kind: str, name: str) -> Sequence[_Role]:
        return self._roles.get(("" if kind == "ClusterRole" else where, name), ())

    def _rights_of(self, call: Call) -> set[Used]:
        """Return the rights that a call took; empty when none allows it."""
        wanted = [(call.verb, call.name)]
        if call.verb == "patch" and call.code == 201:
            wanted.append(("create", ""))  # an apply of what was not there asks for both
        found: set[Used] = set()
        for verb, name in wanted:
            of_verb = {
                right
                for where, kind, role_name in self._bound.get(call.account, {})
                if where in {"", call.namespace}
                for role in self._roles_of(where, kind, role_name)
                for rule in role.rules
                if _allows(rule, call, verb, name)
                for right in _rights(call.account, role, _taken(rule, call, verb, name))
            }
            if not of_verb:
                return set()
            found |= of_verb
        return found


def read_audit(homes: Iterable[SandboxHome]) -> Audit:
    """Read the whole logs of some sandboxes."""
    found = Audit()
    for home in homes:
        for event in events(home):
            found.learn(event)
    found.close()
    return found


def log_end(home: SandboxHome) -> int:
    """Return where a sandbox's log ends now, for `calls_since`."""
    return audit_log(home).stat().st_size


def calls_since(home: SandboxHome, end: int) -> list[Call]:
    """Return every call of our accounts since then, in order; none that is older."""
    now = audit_log(home)
    lines: Iterable[Event] = _lines(now, end)
    if now.stat().st_size < end:  # the API server has begun a new file meanwhile
        older = max(now.parent.glob(f"{now.stem}-*{now.suffix}"))
        lines = (*_lines(older, end), *_lines(now))
    return [call for event in lines if (call := call_of(event)) is not None]


def events(home: SandboxHome) -> Iterator[Event]:
    """Yield the lines of a sandbox's log, oldest first."""
    now = audit_log(home)
    for path in (*sorted(now.parent.glob(f"{now.stem}-*{now.suffix}")), now):
        yield from _lines(path)


def call_of(event: Event) -> Call | None:
    """Return the call of one of our accounts; None for another's, and for questions about rights.

    What an administrator does in an account's name is not its doing.
    """
    account, about = _USERS.get(event["user"]["username"]), event.get("objectRef", {})
    group = about.get("apiGroup", "")
    if account is None or not about or group in _REVIEWS:
        return None
    sub = f"/{about['subresource']}" if about.get("subresource") else ""
    return Call(
        account=account,
        verb=event["verb"],
        resource=f"{about['resource']}{sub}.{group}",
        namespace=about.get("namespace", ""),
        name=about.get("name", "") if event["verb"] != "create" else "",
        code=event.get("responseStatus", {}).get("code", 0),
        dry_run="dryRun=All" in event["requestURI"],
        forbidden=event.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid",
        uri=event["requestURI"].split("?", maxsplit=1)[0],
    )


def difference(audit: Audit, *, accounts: Sequence[str] = ACCOUNTS) -> list[str]:
    """Return every right that was granted and never used, a line each."""
    unused = sorted(audit.granted - audit.used)
    return [f"never used: {right}" for right in unused if right.account in accounts]


def _lines(path: Path, begin: int = 0) -> Iterator[Event]:
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(begin)
        for line in file:
            if line.endswith(b"\n"):  # else the API server is writing it just now
                yield json.loads(line)


def _request(call: Call) -> tuple[str, ...]:
    """Return what was asked for, whatever came of it."""
    return call.account, call.verb, call.resource, call.namespace, call.name


def _allows(rule: Mapping[str, Any], call: Call, verb: str, name: str) -> bool:
    resource, _, group = call.resource.partition(".")
    named = rule.get("resourceNames")
    return (
        verb in rule["verbs"]
        and group in rule["apiGroups"]
        and resource in rule["resources"]
        and (not named or name in named)
    )


def _taken(rule: Mapping[str, Any], call: Call, verb: str, name: str) -> Mapping[str, Any]:
    """Return what of a rule one call takes."""
    resource, _, group = call.resource.partition(".")
    named = {"resourceNames": [name]} if rule.get("resourceNames") else {}
    return {"apiGroups": [group], "resources": [resource], "verbs": [verb], **named}


def _rights(account: str, role: _Role, rule: Mapping[str, Any]) -> Iterator[Used]:
    router = _router(role)
    for group in rule["apiGroups"]:
        for resource in rule["resources"]:
            for name in rule.get("resourceNames") or ("",):
                for verb in rule["verbs"]:
                    yield Used(
                        account,
                        verb,
                        f"{resource}.{group}",
                        _template(name, role.service, resource),
                        router if resource in _OF_A_ROUTE and name else "",
                    )


def _template(name: str, service: str, resource: str) -> str:
    if name and resource in _OF_A_SLOT:
        return "SERVICE-SLOT"  # or what the service was adopted with, which has a name of its own
    meant = name.replace(service, "SERVICE", 1) if service else name
    return re.sub(r"\b(blue|green)\b", "SLOT", meant)


def _router(role: _Role) -> str:
    """Return the router of a Role's service, by the objects it names."""
    names = {
        (resource, name)
        for rule in role.rules
        for resource in rule["resources"]
        for name in rule.get("resourceNames", ())
    }
    if ("destinationrules", role.service) in names:
        return "istio"
    return "service" if ("services", f"{role.service}-preview") in names else "gateway_api"
