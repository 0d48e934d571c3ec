"""What a process that died has left, done away with before a newer version's release begins."""

from __future__ import annotations

from slipway.core.errors import PermanentError, SlipwayError
from slipway.core.release.orders import Leftover
from tasks.reporting import reported
from tasks.rollback import rolled_back_on_failure, taken_back_when_aborted
from tasks.session import ReleaseSession, lock_is_lost
from tasks.traffic import bake, move_alias
from tasks.workload import retire_slot


def settle_leftover(session: ReleaseSession, left: Leftover) -> None:
    """Take an unfinished release back, or finish it where users are on its version already.

    Raises:
        SlipwayError: it could not be brought to an end; the newer version must not begin.
    """
    record = session.record
    session.progress.say(
        f"{record.release_id} was left in phase {record.phase}: "
        + ("finishing it" if left is Leftover.FINISH else "taking it back")
    )
    try:
        with reported(session):
            with rolled_back_on_failure(session):
                if left is Leftover.TAKE_BACK:
                    raise _left_behind(session)
                move_alias(session)
                bake(session)
            with taken_back_when_aborted(session):
                retire_slot(session)
    except SlipwayError as error:
        if lock_is_lost(error) or not session.record.terminal:
            raise


def _left_behind(session: ReleaseSession) -> PermanentError:
    record = session.record
    return PermanentError(
        f"release {record.release_id} was left in phase {record.phase} by a process that died, "
        "and a newer version is asked for",
        code="superseded",
        hint=f"look at: slipway status {record.service}",
    )
