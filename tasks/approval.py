"""Asking a person: the flow run pauses in Prefect's UI with a form, while the ramp watches on.

Prefect's own `pause_flow_run` sleeps until somebody answers; users of a canary must be watched all
the time, so it sleeps in a thread of its own. Whoever answers elsewhere (`slipway approve`) is as
good: the run then resumes by itself. Without a flow run, or with Prefect away, only that is left.
"""

from __future__ import annotations

import contextvars
import threading
import time
from typing import Literal

import httpx
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from pydantic import Field

from slipway.core.release.record import Approval, ReleaseRecord
from slipway.core.service import RampStep

_POLL_S = 2
_SLACK_S = 60  # the record's own time limit ends the wait, not Prefect's


class StepApproval(RunInput):
    """The form that a person fills in to let a canary rise."""

    decision: Literal["approve", "abort"] = Field(
        default="approve", title="Decision", description="abort gives the users back"
    )
    approved_by: str = Field(
        title="Your name", description="written into the release record", min_length=1
    )


class ApprovalDesk:
    """One question to a person, open until it is answered or closed.

    Args:
        record: of the release that asks.
        step: that needs a yes.
        timeout_s: how long the question stays open.
    """

    def __init__(self, record: ReleaseRecord, step: RampStep, *, timeout_s: float) -> None:
        self.step = step
        self._answer: StepApproval | None = None
        context = FlowRunContext.get()
        self._run_id = context.flow_run.id if context and context.flow_run else None
        if self._run_id is None:
            return
        form = StepApproval.with_initial_data(description=_question(record, step))
        asked = contextvars.copy_context()
        key = f"{record.release_id}-{step.weight_percent}-{len(record.history)}"
        seconds = int(timeout_s) + _SLACK_S
        threading.Thread(
            target=lambda: asked.run(self._ask, form, key, seconds), name="approval", daemon=True
        ).start()

    @property
    def aborted(self) -> str:
        """Who said no; empty when nobody did."""
        answer = self._answer
        return answer.approved_by if answer and answer.decision == "abort" else ""

    def approval(self) -> Approval | None:
        """Return the yes to the step; None until there is one."""
        answer = self._answer
        if answer is None or answer.decision != "approve":
            return None
        weight_percent, by = self.step.weight_percent, answer.approved_by
        return Approval(weight_percent=weight_percent, by=by, at_ns=time.time_ns())

    def close(self, approval: Approval | None) -> None:
        """Let the run go on in Prefect's eyes, when the answer did not come from there.

        Args:
            approval: that came another way; None when the release is taken back.
        """
        if self._run_id is None or self._answer is not None:
            return
        decision, by = ("approve", approval.by) if approval else ("abort", "slipway")
        try:
            with get_client(sync_client=True) as client:
                client.resume_flow_run(
                    self._run_id, run_input={"decision": decision, "approved_by": by}
                )
        except (PrefectException, httpx.HTTPError):
            return  # only how the run looks: the release goes by its record

    def _ask(self, form: type[StepApproval], key: str, timeout_s: int) -> None:
        try:
            self._answer = pause_flow_run(
                wait_for_input=form, timeout=timeout_s, poll_interval=_POLL_S, key=key
            )
        except (PrefectException, httpx.HTTPError, RuntimeError, ValueError):
            return  # nobody answered here, or Prefect is away: an order may still come


def _question(record: ReleaseRecord, step: RampStep) -> str:
    rows = [
        f"| {item.stage} | {item.verdict} | {'<br>'.join(item.reasons)} |"
        for item in record.verdicts
    ]
    table = "\n".join(["| stage | verdict | reasons |", "| --- | --- | --- |", *rows])
    return (
        f"**{record.release_id}** asks for {step.weight_percent} % of the users of "
        f"{record.service} (now {record.weight_percent} %).\n\n{table}"
    )
