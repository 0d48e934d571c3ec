"""`slipway watch | reconcile`: the service that never sleeps, and what it starts."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slipway.cli.release import quiet_orchestrator, require_orchestrator, settings

if TYPE_CHECKING:
    from slipway.bootstrap.releases import Ports
    from slipway.settings import Settings

_SERVICES_EVERY_LOOKS = 30


def watch(
    ready_file: Annotated[
        Path | None, typer.Option(help="is written once the watcher looks at its services")
    ] = None,
) -> None:
    """Watch every service for ever: users on dead pods go back, what was left is finished."""
    found = settings()
    from tasks.watch import LOOK_EVERY_S, Watcher

    def say(text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    watcher, looks, begun = Watcher(start=_start_reconcile, report=say), 0, False
    ports: dict[str, Ports] = {}
    while not stop.wait(LOOK_EVERY_S):
        if looks % _SERVICES_EVERY_LOOKS == 0 or not begun:
            learnt = _services(found, ports, say)
            if learnt is not None and not begun:
                begun = True
                say(f"watching {', '.join(learnt) or 'no service'}")
                if ready_file is not None:
                    ready_file.touch()
            ports = ports if learnt is None else learnt
        looks += 1
        watcher.look(ports.values())


def _services(
    found: Settings, known: Mapping[str, Ports], say: Callable[[str], None]
) -> dict[str, Ports] | None:
    """Return the services there are now; None, said why, when that cannot be told.

    Somebody is writing a file, or has not put the kubeconfig in place: those known stay watched.
    """
    from slipway.adapters.service_file import load_services
    from slipway.bootstrap.releases import connect
    from slipway.core.errors import SlipwayError

    try:
        return {
            name: known[name]
            if name in known and known[name].spec == spec
            else connect(name, found)
            for name, spec in load_services(found.services).items()
        }
    except SlipwayError as error:
        say(error.message)
        return None


def _start_reconcile(service: str, key: str) -> None:
    """Start the flow on a worker.

    Raises:
        TransientError: Prefect does not take it; the watcher comes again.
    """
    import httpx
    from prefect.deployments import run_deployment
    from prefect.exceptions import PrefectException

    from slipway.core.errors import TransientError

    try:
        run_deployment(
            "reconcile/reconcile",
            parameters={"service": service},
            timeout=0,
            as_subflow=False,
            idempotency_key=f"watcher-{key}",
        )
    except (PrefectException, httpx.HTTPError) as error:
        raise TransientError(
            f"reconcile of service {service} cannot be started: {error}",
            code="orchestrator-unreachable",
            hint=f"start it by hand: slipway reconcile {service}",
        ) from error


def reconcile(
    service: Annotated[str, typer.Argument(help="one service; all when left out")] = "",
) -> None:
    """Finish releases whose process is gone, and retire slots past their rollback window."""
    settings()
    quiet_orchestrator()
    require_orchestrator()
    from flows.reconcile import reconcile as flow

    for name, what in flow(service, here=True).items():
        typer.echo(f"{name}: {what}")


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    app.command()(watch)
    app.command()(reconcile)
