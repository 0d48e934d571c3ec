"""The runbook of an abort: tell whoever releases; when nobody lives, take it back here."""

from __future__ import annotations

from typing import Any

from prefect import flow

from tasks.abort import abort_release


@flow(name="abort", flow_run_name="{service}-abort", validate_parameters=True)
def abort(service: str, reason: str = "") -> dict[str, Any]:
    """Stop the release of a service that is under way and take it back; users are unharmed.

    Args:
        service: name of a service, such as smollm.
        reason: stands in the record and in the event.
    """
    return abort_release(service, reason=reason)
