"""The lock of a service, renewed in the background for as long as the release lives."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from slipway.core.errors import ConflictError, SlipwayError, TransientError
from slipway.ports import Lease, Releases

LEASE_DURATION_S = 15.0
RENEW_EVERY_S = 5.0
_SAFETY_S = 3.0


class LockKeeper:
    """Renews a lease from a thread of its own, and knows when it can no longer be trusted.

    Args:
        renew_every_s: pause between two renewals.
        monotonic: clock in seconds that validity is counted on.
    """

    def __init__(
        self,
        releases: Releases,
        lease: Lease,
        *,
        renew_every_s: float = RENEW_EVERY_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._releases = releases
        self._lease = lease
        self._renew_every_s = renew_every_s
        self._monotonic = monotonic
        self._valid_until = monotonic() + lease.duration_s - _SAFETY_S
        self._lost = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="release-lock", daemon=True)
        self._thread.start()

    @property
    def lease(self) -> Lease:
        """The lease as last renewed."""
        return self._lease

    def check(self) -> None:
        """Raise unless the lock is surely ours for the next seconds.

        Raises:
            ConflictError: it was taken over, or could not be renewed in time.
        """
        if not self._lost and self._monotonic() > self._valid_until:
            self._lost = "it could not be renewed in time"
        if self._lost:
            raise ConflictError(
                f"the lock of service {self._lease.service} is lost: {self._lost}",
                code="lock-lost",
                hint="another process may have taken over; look at: slipway status",
            )

    def renew(self) -> None:
        """Renew the lease once; called by the keeper's own thread."""
        started = self._monotonic()
        try:
            self._lease = self._releases.renew(self._lease)
        except TransientError:
            return  # `check` stops the release when this lasts too long
        except SlipwayError as error:
            self._lost = error.message
            return
        self._valid_until = started + self._lease.duration_s - _SAFETY_S

    def close(self) -> None:
        """Stop renewing and give the lock back."""
        self._stop.set()
        self._thread.join()
        if not self._lost:
            # A cluster out of reach must not hide how the release ended: the lock runs out anyway.
            with suppress(TransientError):
                self._releases.release(self._lease)

    def _run(self) -> None:
        while not self._lost and not self._stop.wait(self._renew_every_s):
            self.renew()
