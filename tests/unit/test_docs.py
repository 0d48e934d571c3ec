"""The documents say what the code does: links, commands, variables, fields and codes."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import pytest
import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from slipway.adapters.service_schema import ServiceFile
from slipway.cli import application
from slipway.cli.context import hoisted
from slipway.cli.exit_codes import FAULT, INTERRUPTED, USAGE, exit_code
from slipway.core.errors import ConflictError, InputError, PermanentError, TransientError
from slipway.core.feasibility.values import Code, Way
from slipway.core.release.record import Phase, ReleaseRecord
from slipway.core.verdicts import Verdict
from slipway.manifests.access_log import COLUMNS

PROJECT = Path(__file__).parents[2]
DOCS = PROJECT / "docs"
PAGES = (
    *(PROJECT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted(DOCS.rglob("*.md")),
)
CODE = ("slipway", "tasks", "flows", "blocks")
LONGEST_LINE = 110

# Their messages reach people through the events of pods and the answers of a proxy, without a code.
WITHOUT_CODES = ("slipway/sandbox/runtime/", "slipway/sandbox/network/")


def page(name: str) -> str:
    return (DOCS / name).read_text()


def ids(path: Path) -> str:
    return str(path.relative_to(PROJECT))


@cache
def trees() -> tuple[tuple[str, ast.Module], ...]:
    """Return every Python file of the product, parsed, with its path."""
    paths = [path for folder in CODE for path in sorted((PROJECT / folder).rglob("*.py"))]
    return tuple((ids(path), ast.parse(path.read_text())) for path in paths)


def texts(node: ast.AST) -> set[str]:
    """Return the plain strings below a node; the pieces of f-strings are none."""
    pieces = {
        id(item)
        for found in ast.walk(node)
        if isinstance(found, ast.JoinedStr)
        for item in found.values
    }
    return {
        item.value
        for item in ast.walk(node)
        if isinstance(item, ast.Constant) and isinstance(item.value, str) and id(item) not in pieces
    }


def first_cells(text: str) -> list[str]:
    """Return what stands as code in the first column of a page's tables."""
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


def section(text: str, title: str) -> str:
    """Return one section of a page, by its heading."""
    return text.split(f"\n## {title}\n")[1].split("\n## ", maxsplit=1)[0]


# -- links and form -------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub makes from a page's headings."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE
    )
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("path", PAGES, ids=ids)
def test_relative_links_resolve(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), f"{link} leads nowhere"
        if anchor:
            assert anchor in anchors(file.read_text()), f"{link}: no such heading"


@pytest.mark.parametrize("path", PAGES, ids=ids)
def test_files_named_in_a_page_exist(path: Path) -> None:
    folders = "slipway|tasks|flows|blocks|deployments|docs|tests|benchmarks"
    named = re.findall(rf"`((?:{folders})/[\w./-]*\.\w+)`", path.read_text())
    missing = [name for name in named if not (PROJECT / name).exists() and "NAME" not in name]
    assert missing == []


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=ids)
def test_lines_are_short_enough_for_a_terminal(path: Path) -> None:
    long = [line for line in path.read_text().splitlines() if len(line) > LONGEST_LINE]
    assert long == []


# -- the command line -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """A command as a document writes it."""

    page: Path
    words: tuple[str, ...]


def commands_of(path: Path) -> Iterator[Written]:
    """Yield every `slipway …` that a page tells people to run."""
    text = path.read_text()
    blocks = re.findall(r"^ *```(?:\w*)\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    for line in (*lines, *spans):
        found = re.search(r'(?:^|\$\()(?:\.venv/bin/)?slipway ([^;")]+)', line)
        if found:
            yield Written(path, tuple(shlex.split(found[1], comments=True)))


def leaves(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command of the command line with its words."""
    below = getattr(command, "commands", None)
    if below is None:
        yield words, command
        return
    for name, sub in below.items():
        yield from leaves(sub, (*words, name))


LEAVES = dict(leaves(typer.main.get_command(application())))
WRITTEN = [written for path in PAGES for written in commands_of(path)]


def fault_of(written: tuple[str, ...]) -> str:
    """Return what is wrong with a written command, empty when it could be run."""
    words = tuple(hoisted(written))
    words = words[2:] if words[0] == "--context" else words
    found = [known for known in LEAVES if words[: len(known)] == known]
    if not found:
        return "no such command"
    command, rest = LEAVES[found[0]], words[len(found[0]) :]
    options = {name for item in command.params for name in (*item.opts, *item.secondary_opts)}
    allowed = sum(item.param_type_name == "argument" for item in command.params)
    unknown = [word for word in rest if word.startswith("-") and word not in options | {"--help"}]
    valued = {
        name for item in command.params if not getattr(item, "is_flag", True) for name in item.opts
    }
    values = {at + 1 for at, word in enumerate(rest) if word in valued}
    given = [w for at, w in enumerate(rest) if not w.startswith("-") and at not in values]
    if unknown:
        return f"no such option: {', '.join(unknown)}"
    return "too many arguments" if len(given) > allowed else ""


@pytest.mark.parametrize("written", WRITTEN, ids=lambda w: f"{w.page.name}: {' '.join(w.words)}")
def test_command_named_in_a_page_exists(written: Written) -> None:
    if written.words[0] in {"COMMAND", "…"}:
        return
    # `--lines 200` in a table is an option with its value.
    assert fault_of(written.words) == ""


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("sandbox", "explode"), "no such command"),
        (("sandbox", "reset", "--now"), "no such option: --now"),
        (("status", "a", "b"), "too many arguments"),
    ],
)
def test_command_that_does_not_exist_is_noticed(words: tuple[str, ...], fault: str) -> None:
    assert fault_of(words) == fault


def test_reference_names_every_command_and_no_other() -> None:
    cells = first_cells(page("reference/command-line.md"))
    named = [tuple(word for word in cell.split()[1:] if word.islower()) for cell in cells]
    assert sorted(named) == sorted(LEAVES)


def test_reference_names_every_option_of_a_command() -> None:
    text = page("reference/command-line.md")
    assert "`--name NAME` says which of your sandboxes is meant" in text  # of all their commands
    assert "`--context NAME`, before or after any command" in text
    for words, command in LEAVES.items():
        row = next(line for line in text.splitlines() if f"| `slipway {' '.join(words)}" in line)
        for item in command.params:
            if item.param_type_name == "option":
                assert all(
                    f"`{name}" in row for name in item.opts if name not in {"--help", "--name"}
                )


def test_reference_states_the_exit_codes() -> None:
    rows = dict(
        re.findall(r"^\| (\d+) \| (.+?) \|", page("reference/command-line.md"), re.MULTILINE)
    )
    kinds = (InputError, TransientError, ConflictError, PermanentError)
    for kind in kinds:
        assert f"`{kind.__name__}`" in rows[str(exit_code(kind("", code="", hint="")))]
    assert set(rows) == {"0", *map(str, (FAULT, USAGE, 3, 4, 5, 6, INTERRUPTED))}


# -- settings -------------------------------------------------------------------------------------


def test_settings_name_every_variable_of_the_code_and_no_other() -> None:
    read = {
        text
        for _, tree in trees()
        for text in texts(tree)
        if re.fullmatch(r"SLIPWAY_[A-Z_]+", text)
    }
    assert len(read) > 10
    assert set(re.findall(r"SLIPWAY_[A-Z_]+", page("reference/settings.md"))) == read


def test_settings_name_every_variable_that_the_settings_module_reads() -> None:
    names = re.findall(
        r'"((?:SLIPWAY|AWS|MLFLOW|XDG)_[A-Z_]+|KUBECONFIG)"',
        (PROJECT / "slipway/settings.py").read_text(),
    )
    settings = page("reference/settings.md")
    parts = ("Where an installation is", "Where backups go")
    cells = [cell for part in parts for cell in first_cells(section(settings, part))]
    assert set(cells) == {*names, "SLIPWAY_INSTALLATION"}


# -- service file ---------------------------------------------------------------------------------


def schema(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield every field of the schema, dotted, with its default as the reference writes it."""
    for name, info in model.model_fields.items():
        kind = info.annotation
        items = [item for item in get_args(kind) if isinstance(item, type)]
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from schema(kind, f"{prefix}{name}.")
        elif items and issubclass(items[0], BaseModel):
            several = "" if NoneType in items else "[]"
            yield from schema(items[0], f"{prefix}{name}{several}.")
        else:
            yield f"{prefix}{name}", shown(info.get_default(call_default_factory=True), name)


def shown(default: Any, name: str) -> str:
    if default is PydanticUndefined:
        return "required"
    if default is None:
        return "of the kind" if name == "path" else "none"
    if isinstance(default, tuple):
        return f"`[{', '.join(default)}]`"
    return f"`{default}`"


def test_service_file_reference_states_every_field_with_its_default() -> None:
    rows = re.findall(
        r"^\| `([^`]+)` \| .+? \| (.+?) \|", page("reference/service-file.md"), re.MULTILINE
    )
    assert sorted(rows) == sorted(schema(ServiceFile))


# -- record, evidence, access log -----------------------------------------------------------------


def test_record_reference_states_every_field() -> None:
    named = first_cells(section(page("reference/record.md"), "Fields"))
    assert sorted(named) == sorted(item.name for item in fields(ReleaseRecord))


def test_record_reference_states_every_phase_in_order() -> None:
    assert first_cells(section(page("reference/record.md"), "Phases")) == list(Phase)
    assert all(f"`{verdict}`" in page("reference/record.md") for verdict in Verdict)


def constants(tree: ast.Module) -> dict[str, str]:
    """Return the texts that a module gives names to."""
    return {
        target.id: item.value.value
        for item in tree.body
        if isinstance(item, ast.Assign)
        and isinstance(item.value, ast.Constant)
        and isinstance(item.value.value, str)
        for target in item.targets
        if isinstance(target, ast.Name)
    }


def test_record_reference_states_every_key_of_the_evidence() -> None:
    written = {
        constants(tree).get(key.id, key.id) if isinstance(key, ast.Name) else ast.literal_eval(key)
        for _, tree in trees()
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and getattr(call.func, "attr", "") == "put_evidence"
        for key in call.args[:1]
    }
    assert set(first_cells(section(page("reference/record.md"), "Evidence"))) == written


def test_access_log_reference_states_every_column_in_order() -> None:
    named = first_cells(page("reference/access-log.md"))
    assert named == [column.name for column in COLUMNS]


# -- error codes ----------------------------------------------------------------------------------


def test_every_code_to_troubleshoot_exists_in_the_code() -> None:
    known = {text for _, tree in trees() for text in texts(tree)}
    assert [code for code in first_cells(page("how-to/troubleshoot.md")) if code not in known] == []


def test_every_code_that_people_can_meet_is_in_troubleshoot() -> None:
    raised = {
        text
        for path, tree in trees()
        if not path.startswith(WITHOUT_CODES)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "code"
        for text in texts(keyword.value)
        if text
    }
    named = first_cells(page("how-to/troubleshoot.md"))
    assert len(raised) > 100
    assert sorted(raised - set(named)) == []
    assert len(set(named)) == len(named), "a code stands in two tables"


def test_feasibility_reference_states_every_code_and_every_way() -> None:
    text = page("reference/feasibility.md")
    assert first_cells(section(text, "Codes")) == [code.value for code in Code]
    assert first_cells(section(text, "Ways")) == [way.value for way in Way]
