"""The lock of a service: taken when nobody lives who holds it, renewed while the release lives.

Every duration here is counted on this process's own monotonic clock. The time of renewal that
stands in a Lease is another machine's: whether a holder lives shows in the Lease changing while
somebody watches it, as Kubernetes' own leader election does (client-go, `leaderelection`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from slipway.core.errors import ConflictError, SlipwayError, TransientError
from slipway.core.release.holder import refuse_stranger
from slipway.ports.records import Lease, Releases

LEASE_DURATION_S = 15.0
RENEW_EVERY_S = 5.0
PATIENCE_S = 120.0
"""How long a release waits for an API server that does not answer, before it gives up."""

_SAFETY_S = 3.0
_LOOK_EVERY_S = 0.5
_LONGEST_WATCH_S = 60.0
_RETRY_S = 0.5
_TAKES = 3
_GIVE_BACK_S = 5.0  # another release would have to watch a lock that nobody gave back for 15 s

Report = Callable[[str], None]
Clock = Callable[[], float]
Sleep = Callable[[float], None]


def take_lock(releases: Releases, service: str, *, holder: str, report: Report) -> Lease:
    """Take a service's lock; one that a dead process left is watched until it has run out.

    Args:
        releases: where the lock is.
        service: whose lock.
        holder: our name, unique to this process.
        report: told what is waited for.

    Raises:
        ConflictError: `release-running`, another process holds the lock and lives.
        PermanentError: the service is not installed, or something else holds its lock.
    """
    found = watch_lock(releases, service, holder=holder, report=report)
    for _ in range(_TAKES - 1):
        try:
            return releases.take(found, holder=holder, duration_s=LEASE_DURATION_S)
        except TransientError:
            time.sleep(_RETRY_S)  # an API server that just refused is not asked again at once
        # The answer may have been lost, not the write. Whoever came between changed the version.
        now = releases.lock(service)
        found = now if now.holder == holder else found
    return releases.take(found, holder=holder, duration_s=LEASE_DURATION_S)


def watch_lock(releases: Releases, service: str, *, holder: str, report: Report) -> Lease:
    """Return a service's lock that nobody holds who lives; one that is held is watched first.

    Args:
        releases: where the lock is.
        service: whose lock.
        holder: our name; what we hold ourselves is not watched.
        report: told what is waited for.

    Raises:
        ConflictError: `release-running`, another process holds the lock and lives.
        PermanentError: the service is not installed, or something else holds its lock.
    """
    found = releases.lock(service)
    if found.holder in {"", holder}:
        return found
    refuse_stranger(service, found.holder)
    if found.duration_s > _LONGEST_WATCH_S:
        raise _running(releases, found)
    report(
        f"service {service} is locked by {found.holder}: "
        f"watching for {found.duration_s:.0f} s whether it lives"
    )
    return _watched(releases, found)


def _watched(releases: Releases, found: Lease) -> Lease:
    """Return the lock once its holder gave it back, or left it unchanged for its duration."""
    since_s = time.monotonic()
    while time.monotonic() - since_s < found.duration_s:
        time.sleep(_LOOK_EVERY_S)
        asked_s = time.monotonic()
        now = releases.lock(found.service)
        if not now.holder:
            return now
        if _renewal(now) != _renewal(found):
            raise _running(releases, now)
        found = now
        if time.monotonic() - asked_s > _LOOK_EVERY_S * 2:
            since_s = time.monotonic()  # while nobody was answered, its holder was not either
    return found


def _renewal(lease: Lease) -> tuple[str, int, int]:
    return lease.holder, lease.fence, lease.renewed_at_ns


def _running(releases: Releases, found: Lease) -> ConflictError:
    stored = releases.load(found.service)
    record = stored.record if stored else None
    what = f" (release {record.release_id}, phase {record.phase})" if record else ""
    return ConflictError(
        f"service {found.service} is being released by {found.holder}{what}",
        code="release-running",
        hint=f"wait for it to end; look at: slipway status {found.service}",
    )


class LockKeeper:
    """Renews a lease from a thread of its own, and knows when it can no longer be trusted.

    A lease that could not be renewed in time is in doubt: nothing is written until a renewal has
    gone through, which proves that nobody took it meanwhile (it is written under its version).

    Args:
        renew_every_s: pause between two renewals.
        monotonic: clock in seconds that validity is counted on.
        sleep: waits between two attempts to get a lock in doubt back.
        report: told when and for what it waits.
    """

    def __init__(
        self,
        releases: Releases,
        lease: Lease,
        *,
        renew_every_s: float = RENEW_EVERY_S,
        monotonic: Clock = time.monotonic,
        sleep: Sleep = time.sleep,
        report: Report = lambda _text: None,
    ) -> None:
        self._releases = releases
        self._lease = lease
        self._renew_every_s = renew_every_s
        self._monotonic = monotonic
        self._sleep = sleep
        self._report = report
        self._one_renewal = threading.Lock()
        self._valid_until = monotonic() + lease.duration_s - _SAFETY_S
        self._renewed_s = monotonic()
        self._lost = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="release-lock", daemon=True)
        self._thread.start()

    @property
    def lease(self) -> Lease:
        """The lease as last renewed."""
        return self._lease

    def check(self) -> None:
        """Return once the lock is surely ours for the next seconds: at once, but for an outage.

        Raises:
            ConflictError: `lock-lost`, it was taken over, or not to be renewed for `PATIENCE_S`.
        """
        if not self._lost and self._monotonic() > self._valid_until:
            self.regain()
        self._require_not_lost()

    def regain(self) -> None:
        """Wait until a renewal that begins now went through: the API server answers, we hold it.

        Raises:
            ConflictError: `lock-lost`, as `check`.
        """
        asked_s = self._monotonic()
        told = False
        while not self._lost and not self._renewed_since(asked_s):
            waited_s = self._monotonic() - asked_s
            if waited_s > PATIENCE_S:
                self._lost = f"it could not be renewed for {waited_s:.0f} s"
            elif not told:
                self._report("the lock cannot be renewed: waiting for the API server")
                told = True
            self._sleep(_RETRY_S)
        self._require_not_lost()
        if told:
            waited_s = self._monotonic() - asked_s
            self._report(f"the lock is renewed after {waited_s:.0f} s: going on")

    def renew(self) -> None:
        """Renew the lease once; called by the keeper's own thread, and in doubt."""
        with self._one_renewal:
            started = self._monotonic()
            try:
                self._lease = self._releases.renew(self._lease)
            except TransientError:
                return  # `check` stops the release when this lasts too long
            except SlipwayError as error:
                self._lost = error.message
                return
            self._valid_until = started + self._lease.duration_s - _SAFETY_S
            self._renewed_s = started

    def close(self) -> None:
        """Stop renewing and give the lock back."""
        self._stop.set()
        self._thread.join()
        if not self._lost:
            self._give_back()

    def _give_back(self) -> None:
        # A cluster out of reach must not hide how the release ended: the lock runs out anyway.
        until_s = self._monotonic() + _GIVE_BACK_S
        while self._monotonic() <= until_s:
            try:
                self._releases.release(self._lease)
                return
            except TransientError:
                self._sleep(_RETRY_S)

    def _renewed_since(self, asked_s: float) -> bool:
        self.renew()
        return asked_s <= self._renewed_s and self._monotonic() <= self._valid_until

    def _require_not_lost(self) -> None:
        if self._lost:
            raise ConflictError(
                f"the lock of service {self._lease.service} is lost: {self._lost}",
                code="lock-lost",
                hint="nothing was written since; another process may have taken over: look at"
                f" slipway status {self._lease.service}, then run the release again",
            )

    def _run(self) -> None:
        while not self._lost and not self._stop.wait(self._renew_every_s):
            self.renew()
