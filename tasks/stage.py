"""What every stage has in common: skipped when proved, stopped by orders, timed, repeatable."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

from prefect import Task, task
from prefect.cache_policies import NO_CACHE

from slipway.core.errors import SlipwayError, TransientError
from slipway.core.release.record import Phase
from tasks.session import ReleaseSession, timed

P = ParamSpec("P")
Body = Callable[[ReleaseSession], str]


def is_transient(_task: Any, _run: Any, state: Any) -> bool:
    """Return whether a failed task run may be repeated: only after a TransientError."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, TransientError)


def repeatable(name: str, *, run_name: str) -> Callable[[Callable[P, str]], Task[P, str]]:
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


def release_stage(
    name: str,
    *,
    proves: Phase | None = None,
    only: Callable[[ReleaseSession], bool] = lambda _session: True,
) -> Callable[[Body], Task[Any, str]]:
    """Turn a body into a stage task of a release.

    Args:
        name: as people see it.
        proves: the phase the stage ends in; a release that has reached it skips the stage.
        only: whether a release has this stage at all.
    """

    def wrap(body: Body) -> Task[Any, str]:
        @repeatable(name, run_name=name)
        @wraps(body)
        def run(session: ReleaseSession) -> str:
            if proves is not None and session.reached(proves):
                return f"{proves} was proved by an earlier run"
            if not only(session):
                return "not part of this release"
            try:
                session.check_orders(now=True)
                return timed(session, name, body)
            except SlipwayError as error:
                session.progress.failed(name, error.message)
                raise

        return run

    return wrap
