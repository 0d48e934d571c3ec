"""The lock of a service, renewed in the background for as long as the release lives."""

from __future__ import annotations

import threading
import time

from slipway.core.errors import ConflictError, TransientError
from slipway.ports import Lease, Releases

LEASE_DURATION_S = 15.0
RENEW_EVERY_S = 5.0
_SAFETY_S = 3.0


class LockKeeper:
    """Renews a lease from a thread of its own, and knows when it can no longer be trusted."""

    def __init__(self, releases: Releases, lease: Lease) -> None:
        self._releases = releases
        self._lease = lease
        self._valid_until = time.monotonic() + lease.duration_s - _SAFETY_S
        self._lost = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="release-lock", daemon=True)
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
        if not self._lost and time.monotonic() > self._valid_until:
            self._lost = "it could not be renewed in time"
        if self._lost:
            raise ConflictError(
                f"the lock of service {self._lease.service} is lost: {self._lost}",
                code="lock-lost",
                hint="another process may have taken over; look at: slipway status",
            )

    def close(self) -> None:
        """Stop renewing and give the lock back."""
        self._stop.set()
        self._thread.join()
        if not self._lost:
            self._releases.release(self._lease)

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_EVERY_S):
            started = time.monotonic()
            try:
                self._lease = self._releases.renew(self._lease)
            except ConflictError as error:
                self._lost = error.message
                return
            except TransientError:
                continue  # `check` stops the release when this lasts too long
            self._valid_until = started + self._lease.duration_s - _SAFETY_S
