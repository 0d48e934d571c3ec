"""Where the parts of an installation are: read once, from the environment, by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slipway.core.errors import InputError
from slipway.core.service import Router, RouterKind

CONTEXT_VARIABLE = "SLIPWAY_CONTEXT"
"""Which context of the kubeconfig; `--context` of the command line sets it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Addresses and credentials of one installation.

    Args:
        services: folder of the service files.
        kubeconfig: path; None uses the pod's service account.
        context: of the kubeconfig; None is its current one.
        registry: `host:port` of the OCI registry, as pods pull from it.
        pod_registries: that images of model pods may come from, by the policy that an installation
            writes.
        registry_scheme: `https`, or `http` for a registry on loopback.
        gateway_url: base URL users call.
        gateway_admin_urls: admin interface of every gateway pod; empty where not reachable.
        access_log: the gateway's access log; None where rows come from elsewhere.
        cluster_proxy: HTTP proxy that resolves in-cluster names and pod addresses for a process
            outside the cluster; None inside it.
        pod_prefix: how addresses of pods begin as the gateway dials them, and as the cluster shows
            them.
        mlflow_url: the model registry.
        s3_endpoint: of the object store; None is AWS S3.
        evidence_bucket: where the evidence of releases goes.
        cache: folder for downloaded model files.
    """

    services: Path
    kubeconfig: str | None
    context: str | None
    registry: str
    pod_registries: tuple[str, ...]
    registry_scheme: str
    gateway_url: str
    gateway_admin_urls: tuple[str, ...]
    access_log: Path | None
    cluster_proxy: str | None
    pod_prefix: tuple[str, str]
    mlflow_url: str
    s3_endpoint: str | None
    evidence_bucket: str
    cache: Path


def require_gateway_evidence(settings: Settings, router: Router) -> None:
    """Refuse a release that could not see what the gateway does, before it writes anything.

    Without the admin interface open streams cannot be counted, without the access log the bake has
    no rows; neither may count as zero. A plain Service has no gateway that counts by slot.

    Raises:
        InputError: one is not configured.
    """
    missing = [
        name
        for name, needed, value in (
            (
                "SLIPWAY_GATEWAY_ADMIN_URLS",
                router.kind is not RouterKind.SERVICE,
                settings.gateway_admin_urls,
            ),
            ("SLIPWAY_ACCESS_LOG", router.access_log, settings.access_log),
        )
        if needed and not value
    ]
    if missing:
        raise InputError(
            f"not configured: {', '.join(missing)}",
            code="settings-missing",
            hint="a release needs the gateway's own word on open streams and failed requests; "
            "see docs/reference/settings.md",
        )


def from_environment(environment: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from environment variables (`docs/reference/settings.md`).

    Raises:
        InputError: a required variable is missing; names all of them.
    """
    env = os.environ if environment is None else environment
    required = ("SLIPWAY_REGISTRY", "SLIPWAY_GATEWAY_URL", "MLFLOW_TRACKING_URI")
    missing = [name for name in required if not env.get(name)]
    if missing:
        raise InputError(
            f"not configured: {', '.join(missing)}",
            code="settings-missing",
            hint='for the sandbox: eval "$(slipway sandbox env)"; for a cluster of your own see '
            "docs/how-to/real-cluster.md",
        )
    log = env.get("SLIPWAY_ACCESS_LOG")
    cache = env.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Settings(
        services=Path(env.get("SLIPWAY_SERVICES") or "deployments/services"),
        kubeconfig=env.get("KUBECONFIG") or None,
        context=env.get(CONTEXT_VARIABLE) or None,
        registry=env["SLIPWAY_REGISTRY"],
        pod_registries=_listed(env.get("SLIPWAY_POD_REGISTRIES")) or (env["SLIPWAY_REGISTRY"],),
        registry_scheme=env.get("SLIPWAY_REGISTRY_SCHEME") or "https",
        gateway_url=env["SLIPWAY_GATEWAY_URL"].rstrip("/"),
        gateway_admin_urls=_listed(env.get("SLIPWAY_GATEWAY_ADMIN_URLS")),
        access_log=Path(log) if log else None,
        cluster_proxy=env.get("SLIPWAY_CLUSTER_PROXY") or None,
        pod_prefix=_pod_prefix(env.get("SLIPWAY_POD_PREFIX") or "="),
        mlflow_url=env["MLFLOW_TRACKING_URI"],
        s3_endpoint=env.get("AWS_ENDPOINT_URL") or None,
        evidence_bucket=env.get("SLIPWAY_EVIDENCE_BUCKET") or "slipway-evidence",
        cache=Path(env.get("SLIPWAY_MODEL_CACHE") or f"{cache}/slipway/models"),
    )


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(filter(None, (item.strip() for item in (text or "").split(","))))


def _pod_prefix(text: str) -> tuple[str, str]:
    dialled, sign, shown = text.partition("=")
    if not sign:
        raise InputError(
            f"SLIPWAY_POD_PREFIX is {text!r}",
            code="settings-invalid",
            hint="write DIALLED=SHOWN, for example 127.100.=100.100., or leave it out",
        )
    return dialled, shown


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupSettings:
    """Where backups are, and how fast they may be taken.

    Args:
        repository: `s3://BUCKET/PREFIX`, or a folder.
        key_file: with the key of encrypted chunks; None: they are not encrypted.
        s3_endpoint: of the object store; None is AWS S3.
        plain_boto: move bytes by boto3 (`S3BackupStore`).
        bytes_per_s: that may travel; None: no limit.
        threads: chunks in work at once.
        replicas: places of repositories that get copies.
    """

    repository: str
    key_file: Path | None
    s3_endpoint: str | None
    plain_boto: bool
    bytes_per_s: float | None
    threads: int
    replicas: tuple[str, ...] = ()


def backup_settings(
    repository: str | None = None, environment: Mapping[str, str] | None = None
) -> BackupSettings:
    """Read the settings of backups (`docs/reference/settings.md`).

    Args:
        repository: as a command names it; None takes the environment's.
        environment: None is that of the process.

    Raises:
        InputError: there is no repository, or a number is none.
    """
    env = os.environ if environment is None else environment
    place = repository or env.get("SLIPWAY_BACKUP_REPOSITORY")
    if not place:
        raise InputError(
            "not configured: SLIPWAY_BACKUP_REPOSITORY",
            code="settings-missing",
            hint="name it, or --repository: s3://BUCKET/PREFIX, or the path of a folder",
        )
    key_file = env.get("SLIPWAY_BACKUP_KEY_FILE")
    limit = _number(env, "SLIPWAY_BACKUP_MB_PER_S")
    threads = _number(env, "SLIPWAY_BACKUP_THREADS")
    return BackupSettings(
        repository=place,
        key_file=Path(key_file) if key_file else None,
        s3_endpoint=env.get("AWS_ENDPOINT_URL") or None,
        plain_boto=env.get("SLIPWAY_BACKUP_TRANSFER") == "boto3",
        bytes_per_s=None if limit is None else limit * 1e6,
        threads=4 if threads is None else max(1, int(threads)),
        replicas=_listed(env.get("SLIPWAY_BACKUP_REPLICAS")),
    )


def _number(env: Mapping[str, str], name: str) -> float | None:
    text = env.get(name)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InputError(
            f"{name} is {text!r}",
            code="settings-invalid",
            hint="write a number above 0, or leave it out",
        )
    return value
