"""The orchestrator of the sandbox: Prefect's server and a process worker.

The worker starts every flow run as a process of its own, with the worker's environment.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import httpx

from slipway.core.errors import TransientError
from slipway.sandbox.database_template import DatabaseTemplate
from slipway.sandbox.home import SandboxHome
from slipway.sandbox.part import HttpReady, Part
from slipway.sandbox.parts import mlflow, s3

WORK_POOL = "slipway"

_WORKER_QUERY_S = 2
_HEARTBEAT_S = 30
_TIMEOUT_S = 30.0


def url(home: SandboxHome) -> str:
    """Return the address of the UI."""
    return f"http://127.0.0.1:{home.port('prefect')}"


def environment(home: SandboxHome) -> dict[str, str]:
    """Return what a client process (command line, flow run, worker) needs to reach the server."""
    return {
        "PREFECT_API_URL": f"{url(home)}/api",
        "PREFECT_UI_URL": url(home),
        "PREFECT_HOME": str(home.data("prefect")),
        # A run whose cancellation channel broke would run on to its end; better it stops (#18744).
        "PREFECT_RUNNER_CRASH_ON_CANCELLATION_FAILURE": "true",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(_HEARTBEAT_S),
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
        **_quiet(),
    }


def prepare(home: SandboxHome) -> None:
    """Provide the migrated database; one that is there is left alone.

    Raises:
        PermanentError: the migration failed.
    """
    DatabaseTemplate(
        distribution="prefect",
        command=(sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"),
        environment={
            "PREFECT_API_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:///{path}",
            "PREFECT_HOME": str(home.data("prefect")),
            **_quiet(),
        },
    ).provide(_database(home))


def parts(
    home: SandboxHome, *, flow_environment: Mapping[str, str] | None = None
) -> tuple[Part, ...]:
    """Return the server and the worker.

    Args:
        home: of the sandbox.
        flow_environment: what flow runs need beside the object store, the registry and Prefect.
    """
    python = str(Path(sys.executable))
    health = home.port("prefect-worker-health")
    return (
        Part(
            name="prefect-server",
            command=(
                *(python, "-m", "prefect", "server", "start"),
                *("--host", "127.0.0.1", "--port", str(home.port("prefect"))),
            ),
            environment=_server_environment(home),
            ready=HttpReady(f"{url(home)}/api/ready"),
            addresses={"Prefect": url(home)},
            stop_after=("prefect-worker",),
            # It imports for 4 s of processor time; on a machine at work that took over a minute.
            start_timeout_s=180.0,
        ),
        Part(
            name="prefect-worker",
            command=(
                *(python, "-m", "prefect", "worker", "start", "--pool", WORK_POOL),
                *("--type", "process", "--name", "sandbox", "--with-healthcheck"),
                *("--install-policy", "never"),
            ),
            environment={
                **s3.environment(home),
                **mlflow.environment(home),
                **environment(home),
                **(flow_environment or {}),
                "PREFECT_WORKER_QUERY_SECONDS": str(_WORKER_QUERY_S),
                "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
                "PREFECT_WORKER_WEBSERVER_PORT": str(health),
            },
            ready=HttpReady(f"http://127.0.0.1:{health}/health"),
            after=("prefect-server",),
        ),
    )


def set_up(home: SandboxHome) -> None:
    """Make the work pool; running twice equals once.

    Raises:
        TransientError: the server does not answer as it should.
    """
    try:
        with httpx.Client(
            base_url=f"{url(home)}/api", trust_env=False, timeout=_TIMEOUT_S
        ) as client:
            if client.get(f"/work_pools/{WORK_POOL}").status_code == httpx.codes.OK:
                return
            template = client.get("/collections/views/aggregate-worker-metadata").json()["prefect"][
                "process"
            ]["default_base_job_configuration"]
            pool = {"name": WORK_POOL, "type": "process", "base_job_template": template}
            made = client.post("/work_pools/", json=pool)
            # The worker makes the pool too, whoever comes first.
            if made.status_code != httpx.codes.CONFLICT:
                made.raise_for_status()
    except httpx.HTTPError as error:
        raise TransientError(
            f"cannot make the work pool {WORK_POOL} at {url(home)}: {error}",
            code="orchestrator-unreachable",
            hint=f"read {home.logs / 'prefect-server.log'}",
        ) from error


def _server_environment(home: SandboxHome) -> dict[str, str]:
    return {
        **environment(home),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{_database(home)}",
        # Without it the page in the browser calls port 4200 and stays blank.
        "PREFECT_SERVER_UI_API_URL": f"{url(home)}/api",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # Other web pages in the user's browser must not be able to start runs.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": url(home),
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    }


def _quiet() -> dict[str, str]:
    """Environment of every Prefect process: no telemetry, no idle number-crunching threads."""
    return {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _database(home: SandboxHome) -> Path:
    return home.data("prefect-server") / "prefect.sqlite"
