"""`slipway release | status | install | service | model`: releases from the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from slipway.settings import Settings, from_environment

service_app = typer.Typer(help="Service files.", no_args_is_help=True)
model_app = typer.Typer(help="Versions in the model registry.", no_args_is_help=True)

Service = Annotated[str, typer.Argument(help="name of a file in deployments/services/")]


def settings() -> Settings:
    """Return the settings of the environment, else those of this user's sandbox."""
    from slipway.sandbox.home import SandboxHome

    if os.environ.get("SLIPWAY_INSTALLATION"):
        from blocks.installation import current_settings

        return current_settings()
    home = SandboxHome.default()
    if not os.environ.get("SLIPWAY_REGISTRY") and home.kubeconfig.exists():
        from slipway.cli.sandbox_start import adopt_environment

        adopt_environment(home)
    return from_environment()


def release(
    service: Service,
    version: Annotated[str, typer.Argument(help="version of the service's model")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print what it would do, and why; write nothing")
    ] = False,
) -> None:
    """Release a model version to a service; running it twice equals once."""
    settings()
    quiet_orchestrator()
    if dry_run:
        from slipway.cli.plan_view import print_plan
        from slipway.core.feasibility.decide import infeasible
        from tasks.plan import planned_release

        plan = planned_release(service, version)
        print_plan(plan)
        if plan.feasibility is not None and plan.refused:
            raise infeasible(plan.feasibility, service=service)
        return
    require_orchestrator()
    from flows.release import release as flow

    outcome = flow(service, version)
    typer.echo(f"{outcome['release']}: {outcome['outcome']} ({outcome['reason']})")
    typer.echo(f"evidence: {outcome['evidence']}")


def status(service: Service) -> None:
    """Show slots, weights, versions, digests, pods and the last verdicts of a service."""
    from slipway.bootstrap.releases import connect
    from slipway.cli.status_view import print_status

    print_status(connect(service, settings()))


def install(
    service: Annotated[str | None, typer.Argument(help="one service; all when left out")] = None,
) -> None:
    """Put roles, policies, locks and routes of services in place (as an administrator)."""
    from slipway.bootstrap.releases import install_services

    for line in install_services(settings(), service):
        typer.echo(line)


@service_app.command("check")
def check(
    folder: Annotated[Path | None, typer.Argument(help="folder of service files")] = None,
) -> None:
    """Check every service file; each mistake is named with its file and field."""
    from slipway.adapters.service_file import load_services

    services = load_services(folder or Path("deployments/services"))
    for name, spec in sorted(services.items()):
        scaled = spec.autoscaling
        pods = f"{scaled.min_replicas} to {scaled.max_replicas}" if scaled else str(spec.replicas)
        typer.echo(f"{name}: {spec.server.kind}, model {spec.model}, {pods} replicas: ok")


@model_app.command("register")
def register(
    model: Annotated[str, typer.Argument(help="name of the registered model")],
    folder: Annotated[Path, typer.Argument(help="files of the version", exists=True)],
    description: Annotated[str, typer.Option(help="shown in the registry")] = "",
) -> None:
    """Put a folder into the registry as a new version, with checksums and chat template."""
    from slipway.bootstrap.releases import registry

    version = registry(settings()).register(model, folder, description=description)
    typer.echo(f"{version.model} version {version.version}: {len(version.files)} files")


def quiet_orchestrator() -> None:
    """Leave the terminal to `tasks.progress`; the run's log still gets every line."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


def require_orchestrator() -> None:
    """Refuse clearly when a Prefect server is named but does not answer.

    Raises:
        TransientError: it does not.
    """
    import httpx

    from slipway.core.errors import TransientError

    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return  # Prefect then starts a server of its own for this process
    try:
        # One that is busy answers late; one that is not there refuses at once.
        patience = httpx.Timeout(60.0, connect=10.0)
        httpx.get(f"{url}/health", timeout=patience, trust_env=False).raise_for_status()
    except httpx.HTTPError as error:
        raise TransientError(
            f"the Prefect server at {url} does not answer: {error}",
            code="orchestrator-unreachable",
            hint="start it (slipway sandbox up), or set PREFECT_API_URL to one that runs",
        ) from error


def demo() -> None:
    """Show it all: a sandbox, a real model, three releases, one refused, users meanwhile."""
    quiet_orchestrator()
    from slipway.cli.demo import run_demo

    raise typer.Exit(run_demo())


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    app.command()(release)
    app.command()(status)
    app.command()(install)
    app.command()(demo)
    app.add_typer(service_app, name="service")
    app.add_typer(model_app, name="model")
