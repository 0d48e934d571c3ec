"""The pinned packages fit together: Prefect's server imports with them, and answers."""

from __future__ import annotations

import importlib

from prefect.client.orchestration import get_client


def test_server_imports_with_the_pinned_packages() -> None:
    """FastAPI 0.155 and later break this import (docs/design/0001-house.md)."""
    assert importlib.import_module("prefect.server.api.server").create_app


def test_server_of_these_tests_answers(prefect_server: None) -> None:
    client = get_client(sync_client=True)
    assert client.hello().status_code == 200
