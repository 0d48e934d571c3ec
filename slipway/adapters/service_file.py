"""Service files: the YAML of `deployments/services/` as `ServiceSpec` values.

Everything wrong in a file (or in a whole folder) is reported at once, each problem with its file,
its dotted field and what is allowed there. Unknown fields are refused: a misspelt limit must never
be a limit that silently does not hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from slipway.adapters.service_schema import ServiceFile
from slipway.core.errors import InputError
from slipway.core.service import ServiceSpec

_HINT = "mend the fields named above; the files of deployments/services/ are complete examples"


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key written twice, where YAML libraries keep the last one in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {name!r} is written twice", key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep=deep)


def load_service(path: Path) -> ServiceSpec:
    """Return the service that the file at `path` states.

    Raises:
        InputError: code `service-file-invalid` with every problem of the file.
    """
    spec, problems = _read(path)
    if spec is None:
        raise _invalid(problems)
    return spec


def load_services(folder: Path) -> dict[str, ServiceSpec]:
    """Return every service of `folder` (its `*.yaml`, not those of folders below), by name.

    Raises:
        InputError: code `service-file-invalid` with every problem of every file, among them names
            and hosts that two files claim.
    """
    specs: dict[Path, ServiceSpec] = {}
    problems: list[str] = []
    for path in sorted(folder.glob("*.yaml")):
        spec, found = _read(path)
        problems.extend(found)
        if spec is not None:
            specs[path] = spec
    problems.extend(_claimed_twice(specs))
    if problems:
        raise _invalid(problems)
    return {spec.name: spec for spec in specs.values()}


def find_service(folder: Path, name: str) -> ServiceSpec:
    """Return the service called `name` of `folder`.

    Raises:
        InputError: code `service-unknown`, naming the services there are; or as `load_services`.
    """
    services = load_services(folder)
    if name not in services:
        known = ", ".join(sorted(services)) or "none"
        raise InputError(
            f"there is no service {name!r} in {folder}; known services: {known}",
            code="service-unknown",
            hint=f"choose one of them, or add {folder / f'{name}.yaml'}",
        )
    return services[name]


def _read(path: Path) -> tuple[ServiceSpec | None, list[str]]:
    try:
        content = yaml.load(path.read_bytes(), Loader=_Loader)  # noqa: S506  # a SafeLoader
    except OSError as error:
        return None, [f"{path}: cannot be read: {error.strerror}"]
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2026-99-99
        return None, [f"{path}: is no YAML: {' '.join(str(error).split())}"]
    try:
        return ServiceFile.model_validate(content).spec(), []
    except ValidationError as error:
        return None, [_problem(path, item) for item in _own_errors(error)]


def _own_errors(error: ValidationError) -> list[dict[str, Any]]:
    # A list whose items are all wrong is also reported as empty: drop what follows from another.
    found = error.errors(include_url=False)
    parents = {item["loc"][:depth] for item in found for depth in range(len(item["loc"]))}
    return [
        dict(item) for item in found if item["type"] != "too_short" or item["loc"] not in parents
    ]


def _problem(path: Path, error: dict[str, Any]) -> str:
    field = _dotted(error["loc"]) or "the file"
    match error["type"]:
        case "extra_forbidden":
            return f"{path}: {field}: there is no such field"
        case "missing":
            return f"{path}: {field}: is missing"
        case "enum":
            return f"{path}: {field}: is {error['input']!r}; allowed: {error['ctx']['expected']}"
        case "model_type":
            return f"{path}: {field}: must be a mapping of fields"
        case "too_short":
            return f"{path}: {field}: must name at least one"
        case _:
            message = error["msg"]
            for prefix in ("Value error, ", "Input ", "String "):
                message = message.removeprefix(prefix)
            given = error["input"]
            shown = f" (is {given!r})" if isinstance(given, str | int | float) else ""
            return f"{path}: {field}: {message}{shown}"


def _dotted(location: tuple[str | int, ...]) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")


def _claimed_twice(specs: dict[Path, ServiceSpec]) -> Iterable[str]:
    owners: dict[tuple[str, str], Path] = {}
    for path, spec in specs.items():
        for claim in (("name", spec.name), *(("hosts", host) for host in spec.hosts)):
            if claim in owners:
                field, value = claim
                yield f"{path}: {field}: {value!r} belongs to {owners[claim]} already"
            owners.setdefault(claim, path)


def _invalid(problems: list[str]) -> InputError:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    listed = "\n".join(f"  {problem}" for problem in problems)
    return InputError(
        f"{count} in the service files:\n{listed}", code="service-file-invalid", hint=_HINT
    )
