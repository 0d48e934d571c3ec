"""`slipway sandbox fault`: break something on purpose, see what is broken, mend it."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Annotated

import typer

from slipway.cli.sandbox_name import Name, home_of
from slipway.core.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from slipway.sandbox.faults.model import Fault
    from slipway.sandbox.home import SandboxHome

app = typer.Typer(help="Break something on purpose; off by default.", no_args_is_help=True)

_NS_PER_S = 1_000_000_000
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
_BYTES = {"": 1, "k": 1024, "M": 1024**2}


@app.command()
def add(
    target: Annotated[
        str,
        typer.Argument(
            help="s3, registry, mlflow, apiserver, service/NAME, pod/NAME (NAME/NAMESPACE) or"
            " node/NAME"
        ),
    ],
    kind: Annotated[str, typer.Argument(help="latency, reset, error, cut, away or disk-full")],
    *,
    share: Annotated[float, typer.Option(help="of the requests, above 0 and up to 1")] = 1.0,
    latency_ms: Annotated[int, typer.Option(help="of `latency`")] = 0,
    jitter_ms: Annotated[int, typer.Option(help="up to this much more, at random")] = 0,
    status: Annotated[int, typer.Option(help="of `error`: 429 or 500 to 599")] = 503,
    after: Annotated[
        str, typer.Option(help="of `reset` and `cut`: bytes of the answer that pass, as 4k or 1M")
    ] = "0",
    lasts: Annotated[
        str, typer.Option("--for", help="as 20s or 5m; without it until removed or `down`")
    ] = "",
    seed: Annotated[int, typer.Option(help="of the dice: the same seed hits the same")] = 0,
    name: Name = None,
) -> None:
    """Put a fault in force; it is when this returns."""
    from slipway.sandbox.faults.gateway import add_and_wait
    from slipway.sandbox.faults.model import Fault, Kind, Place, checked, parse_target

    home = home_of(name)
    if kind not in set(Kind):
        raise InputError(
            f"there is no fault of kind {kind}",
            code="fault-invalid",
            hint=f"one of {', '.join(Kind)}",
        )
    fault = Fault(
        id="",
        target=parse_target(target),
        kind=Kind(kind),
        share=share,
        latency_ms=latency_ms,
        jitter_ms=jitter_ms,
        after_bytes=_amount(after, _BYTES),
        status=status,
        seed=seed,
    )
    _refuse_unknown_node(checked(fault))
    done = add_and_wait(home, fault, float(_amount(lasts or "0", _SECONDS)))
    print(_line(done.faults[0]))
    if fault.target.place in {Place.SERVICE, Place.POD} and not done.pods:
        print(f"no ready pod of {target} yet; it is hit as soon as there is one")
    print(f"take it back: slipway sandbox fault remove {done.faults[0].id}{home.option()}")


@app.command("list")
def list_them(*, name: Name = None) -> None:
    """Show the faults in force, and how many requests each has hit."""
    from slipway.sandbox.faults.client import list_faults
    from slipway.sandbox.faults.model import Kind

    home = home_of(name)
    done = list_faults(home.run)
    for fault in done.faults:
        counts = fault.kind not in {Kind.AWAY, Kind.DISK_FULL}
        print(_line(fault) + (f", hit {done.hits[fault.id]}" if counts else ""))
    if not done.faults:
        print("no faults")


@app.command()
def remove(
    ids: Annotated[list[str] | None, typer.Argument(help="as `fault list` names them")] = None,
    *,
    all_of_them: Annotated[bool, typer.Option("--all", help="every fault")] = False,
    name: Name = None,
) -> None:
    """Take faults back."""
    from slipway.sandbox.faults.gateway import remove_and_wait

    home = home_of(name)
    if bool(ids) == all_of_them:
        raise InputError(
            "name the faults to be removed, or --all of them",
            code="fault-unknown",
            hint="slipway sandbox fault list",
        )
    removed = remove_and_wait(home, ids or ()).faults
    for fault in removed:
        print(f"removed {_line(fault)}")
    if not removed:
        print("no faults")


def print_active(home: SandboxHome, console: Console) -> None:
    """Print the faults in force, for `status`; nothing when there are none."""
    from slipway.sandbox.faults.client import active_faults

    found = active_faults(home.run)
    if found:
        console.print(f"\n[yellow]faults on purpose: {len(found)}[/]", highlight=False)
    for fault in found:
        console.print(f"    {_line(fault)}", highlight=False, markup=False, soft_wrap=True)
    if found:
        back = f"take them back: slipway sandbox fault remove --all{home.option()}"
        console.print(f"    {back}", highlight=False, markup=False, soft_wrap=True)


def _line(fault: Fault) -> str:
    left = ""
    if fault.until_ns:
        left = f", {max(0, (fault.until_ns - time.time_ns()) // _NS_PER_S)} s left"
    return f"{fault.id}  {fault.target}  {fault.kind}: {fault.meaning}{left}"


def _amount(text: str, units: dict[str, int]) -> int:
    found = re.fullmatch(r"([0-9]+)([a-zA-Z]?)", text)
    if found is None or found[2] not in units:
        raise InputError(
            f"{text} is not a number with one of {', '.join(unit for unit in units if unit)}",
            code="fault-invalid",
            hint="for example --for 20s --after 4k",
        )
    return int(found[1]) * units[found[2]]


def _refuse_unknown_node(fault: Fault) -> None:
    from slipway.sandbox.faults.model import Place
    from slipway.sandbox.parts.kubernetes import NODES

    names = [node.name for node in NODES]
    if fault.target.place is Place.NODE and fault.target.name not in names:
        raise InputError(
            f"there is no node {fault.target.name}",
            code="fault-target-unknown",
            hint=f"nodes: {', '.join(names)}",
        )
