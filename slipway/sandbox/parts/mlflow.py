"""The model registry of the sandbox: MLflow's server, one process, files in the object store.

`mlflow server` starts a second process for its web workers and stays beside it. Here the same ASGI
application runs in one: the variables below are what `mlflow server` hands to it (mlflow 3.17,
`mlflow/server/__init__.py:_run_server`; the contract test starts it like this).
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import httpx

from slipway.core.errors import TransientError
from slipway.sandbox.database_template import DatabaseTemplate
from slipway.sandbox.home import SandboxHome
from slipway.sandbox.part import HttpReady, Part
from slipway.sandbox.parts import s3

ARTIFACT_ROOT = "mlflow-artifacts:/"

_FIRST_ANSWER_TIMEOUT_S = 30.0

# Makes and migrates the tables of runs and of models, as the server does at its first request.
_MIGRATE = (
    "import sys\n"
    "from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore\n"
    f"SqlAlchemyStore(sys.argv[1], {ARTIFACT_ROOT!r})\n"
)


def url(home: SandboxHome) -> str:
    """Return the address of the registry, for clients and for a browser."""
    return f"http://127.0.0.1:{home.port('mlflow')}"


def environment(home: SandboxHome) -> dict[str, str]:
    """Return what a client process needs to reach the registry."""
    return {"MLFLOW_TRACKING_URI": url(home), **_quiet()}


def prepare(home: SandboxHome) -> None:
    """Provide the migrated database; one that is there is left alone.

    Raises:
        PermanentError: the migration failed.
    """
    DatabaseTemplate(
        distribution="mlflow",
        command=(sys.executable, "-c", _MIGRATE, "sqlite:///{path}"),
        environment=_quiet(),
    ).provide(_database(home))


def parts(home: SandboxHome) -> tuple[Part, ...]:
    """Return the one process of the registry."""
    return (
        Part(
            name="mlflow",
            command=(
                str(Path(sys.executable)),
                *("-m", "uvicorn", "--host", "127.0.0.1", "--port", str(home.port("mlflow-inner"))),
                *("--workers", "1", "--log-level", "warning", "mlflow.server.fastapi_app:app"),
            ),
            environment=_server_environment(home),
            ready=HttpReady(f"http://127.0.0.1:{home.port('mlflow-inner')}/health"),
            addresses={"MLflow": url(home)},
            stop_grace_s=3.0,
        ),
    )


def set_up(home: SandboxHome) -> None:
    """Ask for the models once, so that the first user does not wait for the store to be opened.

    Raises:
        TransientError: the server does not answer.
    """
    try:
        with httpx.Client(trust_env=False, timeout=_FIRST_ANSWER_TIMEOUT_S) as client:
            client.get(f"{url(home)}/api/2.0/mlflow/registered-models/search").raise_for_status()
    except httpx.HTTPError as error:
        raise TransientError(
            f"the model registry at {url(home)} does not list its models: {error}",
            code="registry-unreachable",
            hint=f"read {home.logs / 'mlflow.log'}",
        ) from error


def _server_environment(home: SandboxHome) -> dict[str, str]:
    database = f"sqlite:///{_database(home)}"
    return {
        **s3.environment(home),
        **_quiet(),
        "_MLFLOW_SERVER_FILE_STORE": database,
        "_MLFLOW_SERVER_REGISTRY_STORE": database,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": ARTIFACT_ROOT,
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": f"s3://{s3.MODELS_BUCKET}",
        "_MLFLOW_SGI_NAME": "uvicorn",
        "MLFLOW_S3_ENDPOINT_URL": s3.endpoint(home),
        "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": "path",
        # Jobs of the evaluation features would bring a queue and its consumer processes.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # The receiver of webhooks listens on loopback, without TLS.
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        # Webhook secrets lie encrypted in the database and outlive a restart.
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": _fernet_key(home.secret("mlflow-webhook-key")),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": home.secret("mlflow-session-key"),
    }


def _quiet() -> dict[str, str]:
    """Environment of every MLflow process: no telemetry, no idle number-crunching threads."""
    return {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _fernet_key(secret: str) -> str:
    return base64.urlsafe_b64encode(bytes.fromhex(secret)).decode()


def _database(home: SandboxHome) -> Path:
    return home.data("mlflow") / "mlflow.sqlite"
