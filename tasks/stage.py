"""What every stage has in common: skipped when proved, stopped by orders, timed, repeatable."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE

from slipway.core.errors import SlipwayError, TransientError
from slipway.core.release.stages import Stage, why_skipped
from tasks.session import ReleaseSession, timed

P = ParamSpec("P")
R = TypeVar("R")
Body = Callable[[ReleaseSession], str]


def is_transient(_task: Any, _run: Any, state: Any) -> bool:
    """Return whether a failed task run may be repeated: only after a TransientError."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, TransientError)


def repeatable(name: str, *, run_name: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Turn an idempotent verb into a task that is repeated twice after a TransientError.

    Args:
        name: as people see it.
        run_name: of one run; without it the run's page shows names like "deploy-20e".
    """
    return task(
        name=name,
        task_run_name=run_name,
        retries=2,
        retry_delay_seconds=[1, 4],
        retry_condition_fn=is_transient,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


def release_stage(stage: Stage) -> Callable[[Body], Task[Any, str]]:
    """Turn a body into a stage task of a release, which its record may do without."""

    def wrap(body: Body) -> Task[Any, str]:
        @repeatable(stage.name, run_name=stage.name)
        @wraps(body)
        def run(session: ReleaseSession) -> str:
            skipped = why_skipped(stage, session.record)
            if skipped is not None:
                return skipped
            try:
                session.check_orders(now=True)
                return timed(session, stage.name, body)
            except SlipwayError as error:
                session.progress.failed(stage.name, error.message)
                raise

        return run

    return wrap
