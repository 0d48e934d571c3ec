"""`slipway watch | reconcile`: the service that never sleeps, and what it starts."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from slipway.cli.release import quiet_orchestrator, require_orchestrator, settings

_SERVICES_EVERY_LOOKS = 30


def watch(
    ready_file: Annotated[
        Path | None, typer.Option(help="is written once the watcher looks at its services")
    ] = None,
) -> None:
    """Watch every service for ever: users on dead pods go back, what was left is finished."""
    found = settings()
    from slipway.adapters.service_file import load_services
    from slipway.bootstrap import Ports, connect
    from slipway.core.errors import SlipwayError
    from tasks.watch import LOOK_EVERY_S, Watcher

    def say(text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    watcher, ports, looks = Watcher(start=_start_reconcile, report=say), dict[str, Ports](), 0
    while not stop.wait(LOOK_EVERY_S):
        if looks % _SERVICES_EVERY_LOOKS == 0:
            try:
                specs = load_services(found.services)
            except SlipwayError as error:  # somebody is writing a file: those known stay watched
                say(error.message)
                specs = {name: known.spec for name, known in ports.items()}
            ports = {
                name: ports[name]
                if name in ports and ports[name].spec == spec
                else connect(name, found)
                for name, spec in specs.items()
            }
            if looks == 0 and ready_file is not None:
                ready_file.touch()
            if looks == 0:
                say(f"watching {', '.join(ports) or 'no service'}")
        looks += 1
        watcher.look(ports.values())


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
