"""`slipway sandbox`: a whole serving platform on this machine, from package registries alone."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from slipway.cli import sandbox_fault, sandbox_node
from slipway.cli.sandbox_name import Name, home_of
from slipway.core.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from slipway.sandbox.supervisor_status import PartStatus, SandboxStatus

app = typer.Typer(
    help="Kubernetes, Istio, S3, MLflow and Prefect on this machine, without containers.",
    no_args_is_help=True,
)
app.add_typer(sandbox_fault.app, name="fault")
app.add_typer(sandbox_node.app, name="node")

NOT_RUNNING = 1
"""Exit code of `status` when the sandbox does not run, or not all of it."""

_NS_PER_S = 1_000_000_000
_FOLLOW_POLL_S = 0.2
_SHELL_TAIL = {
    "PATH": ":$PATH",
    "NO_PROXY": "${NO_PROXY:+,$NO_PROXY}",
    "no_proxy": "${no_proxy:+,$no_proxy}",
}


@app.command()
def up(*, name: Name = None) -> None:
    """Start the sandbox and wait until all of it is ready; running twice equals once."""
    home = home_of(name)
    from slipway.cli.sandbox_start import start
    from slipway.sandbox.parts import gateway

    progress = clock()
    progress(f"sandbox in {home.root}")
    start(home, progress)
    progress("ready")
    print(f"\nmodels     {gateway.url(home)}")
    print(f"all of it  slipway sandbox status{home.option()}")
    print(f'settings   eval "$(slipway sandbox env{home.option()})"')


@app.command()
def status(*, name: Name = None) -> None:
    """Show every part: state, since when, memory, process, address."""
    from rich.console import Console

    home = home_of(name)
    from slipway.sandbox import lifecycle

    now = lifecycle.status(home)
    if now is None:
        start = f"slipway sandbox up{home.option()}"
        print(f"the sandbox in {home.root} does not run; start it with: {start}")
        raise typer.Exit(NOT_RUNNING)
    console = Console()
    console.print(_table(now), f"{home.root}: {now.state}")
    restarted = [f"{part.name} {part.restarts}×" for part in now.parts if part.restarts]
    if restarted:
        print(f"restarted since the start: {', '.join(restarted)}")
    sandbox_fault.print_active(home, console)
    for loss in lifecycle.losses(home):
        print(f"note: {loss}")
    for part in now.broken:
        console.print(f"\n[red]{part.name}[/] {part.reason}; the end of its log:")
        # Not through the console: it would break long lines.
        print("\n".join(f"    {line}" for line in part.last_lines))
    for node in sorted({part.node for part in now.parts if part.state == "down"}):
        revive = f"slipway sandbox node revive {node}{home.option()}"
        print(f"{node} is down on purpose; bring it back: {revive}")
    if now.state != "ready":
        raise typer.Exit(NOT_RUNNING)


@app.command("list")
def list_all() -> None:
    """List your sandboxes: name, state, folder."""
    home_of(None)
    from rich.console import Console
    from rich.table import Table

    from slipway.sandbox import lifecycle

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("name", "state", "folder"):
        table.add_column(title, overflow="fold")
    homes = lifecycle.known()
    for home in homes:
        now = lifecycle.status(home)
        table.add_row(home.name or "-", now.state if now else "down", str(home.root))
    if not homes:
        print("there is no sandbox yet; start one with: slipway sandbox up")
    else:
        Console().print(table)


@app.command()
def logs(
    part: Annotated[str, typer.Argument(help="name of a part, as `status` shows it")],
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on as it grows")] = False,
    lines: Annotated[int, typer.Option(help="how many lines, counted from the end")] = 200,
    name: Name = None,
) -> None:
    """Print the log of a part."""
    from collections import deque

    home = home_of(name)
    path = home.logs / f"{part}.log"
    if "/" in part or not path.is_file():
        known = sorted(log.stem for log in home.logs.glob("*.log"))
        raise InputError(
            f"there is no log of a part {part}",
            code="unknown-part",
            hint=f"parts with a log: {', '.join(known) or 'none, the sandbox never ran'}",
        )
    with path.open(errors="replace") as file:
        for line in deque(file, maxlen=lines):
            print(line, end="")
        while follow:
            line = file.readline()
            if line:
                print(line, end="", flush=True)
            else:
                time.sleep(_FOLLOW_POLL_S)


@app.command()
def env(*, name: Name = None) -> None:
    """Print the settings of a shell that talks to the sandbox: eval "$(slipway sandbox env)"."""
    home = home_of(name)
    from slipway.sandbox.environment import client_environment

    for variable, value in client_environment(home).items():
        # Lists stay the shell's own, with ours before them.
        print(f"export {variable}={shlex.quote(value)}{_SHELL_TAIL.get(variable, '')}")


@app.command()
def down(*, name: Name = None) -> None:
    """Stop the sandbox; the data stay."""
    home = home_of(name)
    from slipway.sandbox import lifecycle

    progress = clock()
    killed = lifecycle.down(home)
    progress(f"stopped; {killed} processes outlived the orderly stop and were killed")


@app.command()
def reset(
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    name: Name = None,
) -> None:
    """Stop the sandbox and delete all its data."""
    home = home_of(name)
    from slipway.sandbox import lifecycle

    if not yes:
        typer.confirm(f"delete everything the sandbox keeps in {home.root}?", abort=True)
    lifecycle.reset(home)
    print(f"deleted the sandbox in {home.root}")


def clock() -> Callable[[str], None]:
    """Return a printer of lines that start with the seconds since now."""
    started_s = time.monotonic()

    def progress(line: str) -> None:
        print(f"{time.monotonic() - started_s:6.1f} s  {line}", flush=True)

    return progress


def _table(now: SandboxStatus) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("part", "state", "since", "memory", "pid", "address"):
        table.add_column(title, justify="right" if title in {"memory", "pid"} else "left")
    total_bytes = 0
    for part in now.parts:
        memory_bytes = _memory_bytes(part)
        total_bytes += memory_bytes
        table.add_row(
            part.name,
            f"[{_COLOURS.get(part.state, 'red')}]{part.state}[/]",
            _ago(part.since_ns),
            f"{memory_bytes / 1e6:.0f} MB" if memory_bytes else "",
            str(part.process.pid) if part.process and memory_bytes else "",
            _address(part),
        )
    table.add_row("", "", "", f"{total_bytes / 1e6:.0f} MB", "", "")
    return table


_COLOURS = {
    "ready": "green",
    "starting": "yellow",
    "waiting": "yellow",
    "stopping": "yellow",
    "restarting": "yellow",
}


def _memory_bytes(part: PartStatus) -> int:
    from slipway.sandbox.supervisor_process import memory_bytes

    return (memory_bytes(part.process) or 0) if part.process else 0


def _address(part: PartStatus) -> str:
    if part.waits_for:
        return f"waits for {', '.join(part.waits_for)}"
    if part.state == "restarting":
        return part.reason
    return ", ".join(f"{label} {url}" for label, url in part.addresses.items())


def _ago(since_ns: int) -> str:
    seconds = max(0, (time.time_ns() - since_ns) // _NS_PER_S)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
