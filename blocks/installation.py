"""Where an installation is, as a Prefect block: edited in the UI, loaded by every flow run."""

from __future__ import annotations

import os
from typing import ClassVar

from prefect.blocks.core import Block
from pydantic import Field, SecretStr

from slipway.settings import CONTEXT_VARIABLE, Settings, from_environment

BLOCK_VARIABLE = "SLIPWAY_INSTALLATION"
"""Name of the block document to use; unset, the settings come from environment variables."""


class Installation(Block):
    """Addresses of the cluster, the registries and the stores that releases work with."""

    _block_type_name: ClassVar[str] = "Slipway installation"
    _block_type_slug: ClassVar[str] = "slipway-installation"
    _description: ClassVar[str] = "Where a Slipway installation finds its cluster and its stores."

    context: str = Field(
        default="", title="Context", description="of the kubeconfig; empty: its current one"
    )
    registry: str = Field(title="Image registry", description="host:port that pods pull from")
    registry_scheme: str = Field(default="https", pattern="^https?$", title="Registry scheme")
    gateway_url: str = Field(title="Gateway", description="base URL that users call")
    mlflow_url: str = Field(title="Model registry", description="URL of the MLflow server")
    evidence_bucket: str = Field(default="slipway-evidence", title="Evidence bucket")
    s3_endpoint: str = Field(default="", title="S3 endpoint", description="empty: AWS S3")
    s3_access_key: SecretStr = Field(default=SecretStr(""), title="S3 access key")
    s3_secret_key: SecretStr = Field(default=SecretStr(""), title="S3 secret key")

    def environment(self) -> dict[str, str]:
        """Return the block as the environment variables that `slipway.settings` reads."""
        values = {
            CONTEXT_VARIABLE: self.context,
            "SLIPWAY_REGISTRY": self.registry,
            "SLIPWAY_REGISTRY_SCHEME": self.registry_scheme,
            "SLIPWAY_GATEWAY_URL": self.gateway_url,
            "MLFLOW_TRACKING_URI": self.mlflow_url,
            "SLIPWAY_EVIDENCE_BUCKET": self.evidence_bucket,
            "AWS_ENDPOINT_URL": self.s3_endpoint,
            "AWS_ACCESS_KEY_ID": self.s3_access_key.get_secret_value(),
            "AWS_SECRET_ACCESS_KEY": self.s3_secret_key.get_secret_value(),
        }
        return {name: value for name, value in values.items() if value}


def current_settings() -> Settings:
    """Return the settings of this process: the named block's values over the environment's.

    But a context that the environment names stands, for `--context` comes by it.

    Raises:
        InputError: neither says where the installation is.
    """
    name = os.environ.get(BLOCK_VARIABLE)
    if not name:
        return from_environment()
    block = Installation.load(name)
    if not isinstance(block, Installation):  # the synchronous call never returns a coroutine
        raise TypeError(f"block {name} loaded as {type(block).__name__}")
    chosen = os.environ.get(CONTEXT_VARIABLE)
    os.environ.update(block.environment())
    if chosen:  # somebody typed --context: whoever says it last means it
        os.environ[CONTEXT_VARIABLE] = chosen
    return from_environment()
