"""Mutants made mechanically from the tasks' source: port calls tampered with, checks left out.

A call of a port is dropped, made 20 s late, or swapped with the statement after it; a write is made
twice, a read gives its first answer for ever; a check, a wait, or an `if` that raises is skipped. A
mutant is put into the running functions, so that everything imported stays as it is.
"""

from __future__ import annotations

import ast
import gc
import importlib
import inspect
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from slipway.ports.models import ImageStore, ObjectStore, Registry
from slipway.ports.records import Orders, Releases
from slipway.ports.traffic import Metrics, Traffic
from slipway.ports.workloads import Workloads
from tests.simulation.wires import WRITES

TASKS = Path(__file__).resolve().parents[2] / "tasks"

_OF_NO_RELEASE = frozenset(
    {
        *("adopted_pods", "adopting", "adoption", "giving_back"),
        *("backup_jobs", "backup_reports", "backups", "drill", "restores"),
    }
)
"""No process of a release comes by them: `tests/e2e/test_adoption_killed.py` ends adoptions,
`tests/contract/test_backup_killed.py` backups; what they do is asked by `tests/e2e`."""


_DELAY_S = 20.0
_LONGEST = 70
_PORTS = {
    "releases": Releases,
    "orders": Orders,
    "workloads": Workloads,
    "traffic": Traffic,
    "metrics": Metrics,
    "registry": Registry,
    "images": ImageStore,
    "objects": ObjectStore,
}
# What a session does with its ports for the tasks counts as a call of a port in their source.
_SESSION_WRITES = frozenset(
    {
        *("save", "intend", "advance", "hold", "go_on", "fail", "judge"),
        *("put_evidence", "remove_pod", "clear_orders"),
    }
)
_SESSION_READS = frozenset({"observe", "ready_pods"})
_CHECKS = ("check", "require", "await", "wait", "regain", "warm")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one function.

    Args:
        kind: what is done: drop, twice, late, swap, stale or skip.
        module: of the tasks, without the package.
        unit: name of the function, or `CLASS.METHOD`.
        what: the call or condition, as it is written.
        nth: which of several equal ones in the function, from 1.
    """

    kind: str
    module: str
    unit: str
    what: str
    nth: int

    @property
    def id(self) -> str:
        """A name that stays when lines move."""
        number = f" #{self.nth}" if self.nth > 1 else ""
        return f"{self.kind} {self.module}.{self.unit}: {self.what}{number}"

    @property
    def tells(self) -> bool:
        """Whether it is noted when the changed code is reached."""
        return self.kind != "swap" and not self.what.startswith("if ")


Unit = ast.FunctionDef


@dataclass(slots=True)
class _Site:
    """A place in a function that can be changed, in a tree of its own."""

    kind: str
    what: str
    change: Callable[[], None]


def mutants() -> Iterator[Mutant]:
    """Yield every mutant of every task, in the order of the source."""
    for path in sorted(TASKS.glob("*.py")):
        if path.stem in _OF_NO_RELEASE:
            continue
        for name, unit in _units(ast.parse(path.read_text())):
            seen: dict[tuple[str, str], int] = {}
            for site in _sites(unit, name):
                key = site.kind, site.what
                seen[key] = seen.get(key, 0) + 1
                yield Mutant(site.kind, path.stem, name, site.what, seen[key])


def put_in(mutant: Mutant) -> None:
    """Change the running function; there is no way back but another process.

    Raises:
        LookupError: the source has no such mutant.
    """
    path = TASKS / f"{mutant.module}.py"
    tree = ast.parse(path.read_text())
    unit = dict(_units(tree))[mutant.unit]
    same = [s for s in _sites(unit, mutant.unit) if (s.kind, s.what) == (mutant.kind, mutant.what)]
    if len(same) < mutant.nth:
        raise LookupError(mutant.id)
    same[mutant.nth - 1].change()
    compiled = compile(ast.fix_missing_locations(tree), str(path), "exec")
    module = importlib.import_module(f"tasks.{mutant.module}")
    vars(module).update(_STAND_INS)
    _replace(_function(module, mutant.unit).__code__, _code(compiled, mutant.unit))


# -- finding the places ----------------------------------------------------------------------------


def _units(tree: ast.Module) -> Iterator[tuple[str, Unit]]:
    for node in tree.body:
        if isinstance(node, Unit):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, Unit):
                    yield f"{node.name}.{inner.name}", inner


def _sites(unit: Unit, name: str) -> Iterator[_Site]:
    in_session = name.startswith("ReleaseSession.")
    for node in ast.walk(unit):
        if isinstance(node, ast.Call):
            yield from _sites_of_call(unit, node, in_session=in_session)
        elif isinstance(node, ast.If) and not node.orelse and _raises(node.body):
            yield _Site("skip", f"if {_text(node.test)}", partial(_leave_out, node))


def _sites_of_call(unit: Unit, call: ast.Call, *, in_session: bool) -> Iterator[_Site]:
    what = _text(call.func)
    if what.startswith("self._port.") and what.rpartition(".")[2] not in WRITES:
        return  # a guard passes it through, for its callers that are mutated themselves
    if _is_check(what):
        yield _Site("skip", what, partial(_wrap, call, "drop"))
        return
    verb = _verb(call, in_session=in_session)
    if verb is None:
        return
    # A read made twice is none: it changes nothing, and its second answer counts.
    for kind in ("drop", "late", "twice" if verb in _WRITING else "stale"):
        yield _Site(kind, what, partial(_wrap, call, kind))
    swap = _swap(unit, call)
    if swap is not None:
        yield _Site("swap", what, swap)


_WRITING = WRITES | _SESSION_WRITES


def _verb(call: ast.Call, *, in_session: bool) -> str | None:
    """Return the verb of a port that is called; None for any other call."""
    if not isinstance(call.func, ast.Attribute):
        return None
    verb, receiver = call.func.attr, call.func.value
    last = receiver.attr if isinstance(receiver, ast.Attribute) else _text(receiver)
    owner = last.lstrip("_")
    if owner == "session" or (in_session and owner == "self"):
        return verb if verb in _SESSION_WRITES | _SESSION_READS else None
    known = _PORTS.values() if owner == "port" else [_PORTS[owner]] if owner in _PORTS else []
    return verb if any(callable(getattr(port, verb, None)) for port in known) else None


def _is_check(what: str) -> bool:
    return what.rpartition(".")[2].lstrip("_").startswith(_CHECKS)


def _raises(body: Sequence[ast.stmt]) -> bool:
    return isinstance(body[-1], ast.Raise)


def _text(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


# -- changing them ---------------------------------------------------------------------------------


def _wrap(call: ast.Call, kind: str) -> None:
    call.args = [call.func, *call.args]
    call.func = ast.Name(f"_mutant_{kind}", ast.Load())


def _leave_out(condition: ast.If) -> None:
    condition.body = [ast.Pass()]


def _swap(unit: Unit, call: ast.Call) -> Callable[[], None] | None:
    """Return what swaps the call's statement with the next; None where that makes no sense."""
    for node in ast.walk(unit):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if not isinstance(block, list):
                continue
            for index, statement in enumerate(block[:-1]):
                if isinstance(statement, ast.Expr | ast.Assign) and _holds(statement, call):
                    after = block[index + 1]
                    return None if _bound(statement, after) else _swapping(block, index)
    return None


def _swapping(block: list[ast.stmt], index: int) -> Callable[[], None]:
    def change() -> None:
        block[index], block[index + 1] = block[index + 1], block[index]

    return change


def _holds(statement: ast.stmt, call: ast.Call) -> bool:
    return any(node is call for node in ast.walk(statement))


def _bound(first: ast.stmt, after: ast.stmt) -> bool:
    """Return whether the next statement cannot come first: it needs the name, or leaves."""
    if isinstance(after, ast.Return | ast.Raise | ast.Break | ast.Continue):
        return True
    stored = {n.id for n in ast.walk(first) if isinstance(n, ast.Name) and _stores(n)}
    used = {n.id for n in ast.walk(after) if isinstance(n, ast.Name) and not _stores(n)}
    return bool(stored & used)


def _stores(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


# -- putting them in -------------------------------------------------------------------------------


def _function(module: types.ModuleType, unit: str) -> types.FunctionType:
    found: Any = module
    for name in unit.split("."):
        found = inspect.getattr_static(found, name)
    while True:
        inner = getattr(found, "__wrapped__", None) or getattr(found, "fget", None)
        if inner is None:
            break
        found = inner
    function: types.FunctionType = found
    return function


def _code(compiled: types.CodeType, unit: str) -> types.CodeType:
    for name in unit.split("."):
        compiled = next(code for code in _inner(compiled) if code.co_name == name)
    return compiled


def _inner(code: types.CodeType) -> list[types.CodeType]:
    return [item for item in code.co_consts if isinstance(item, types.CodeType)]


def _replace(old: types.CodeType, new: types.CodeType) -> None:
    """Give every function that runs the old code, or a function within it, the new one."""
    instead = dict(_pairs(old, new))
    for item in gc.get_objects():
        if isinstance(item, types.FunctionType) and item.__code__ in instead:
            item.__code__ = instead[item.__code__]


def _pairs(
    old: types.CodeType, new: types.CodeType
) -> Iterator[tuple[types.CodeType, types.CodeType]]:
    yield old, new
    left = _inner(new)
    for code in _inner(old):
        same = next((item for item in left if item.co_name == code.co_name), None)
        if same is not None:
            left.remove(same)
            yield from _pairs(code, same)


# -- what a mutant does instead --------------------------------------------------------------------

Function = Callable[..., Any]
reached: list[bool] = []
"""Holds something once the changed call was made."""


class Nothing:
    """What a call returns that was not made; it may stand wherever an answer stands."""

    def __getattr__(self, name: str) -> Nothing:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __format__(self, spec: str) -> str:
        return "nothing"


def _drop(function: Function, *args: Any, **named: Any) -> Any:
    reached.append(True)
    return Nothing()


def _twice(function: Function, *args: Any, **named: Any) -> Any:
    reached.append(True)
    function(*args, **named)
    return function(*args, **named)


def _late(function: Function, *args: Any, **named: Any) -> Any:
    reached.append(True)
    _time().sleep(_DELAY_S)
    return function(*args, **named)


def _stale(function: Function, *args: Any, **named: Any) -> Any:
    """Return what this process was answered first, whatever became true since."""
    reached.append(True)
    engine = getattr(_time(), "engine", None)
    known = _answers(getattr(engine, "process", None))
    key = repr((args, named))
    if key not in known:
        known[key] = function(*args, **named)
    return known[key]


@cache
def _answers(process: object) -> dict[str, Any]:
    return {}


def _time() -> Any:
    """Return what the tasks have for the module `time` now: the simulation's, or a fake clock."""
    return vars(importlib.import_module("tasks.session"))["time"]


_STAND_INS: dict[str, Function] = {
    "_mutant_drop": _drop,
    "_mutant_twice": _twice,
    "_mutant_late": _late,
    "_mutant_stale": _stale,
}
