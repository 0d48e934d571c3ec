"""One release in the hands of one process: its ports, its record, its lock."""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import getpid
from typing import Any

from blocks.installation import current_settings
from slipway.bootstrap import Ports, connect
from slipway.core.errors import ConflictError, SlipwayError, TransientError
from slipway.core.release.admission import AlreadyDone, Request, Resume, admit
from slipway.core.release.bake import BakeWatch
from slipway.core.release.ramp import RampWatch
from slipway.core.release.record import (
    Phase,
    ReleaseRecord,
    StageVerdict,
    advance,
    begin,
    go_on,
    hold,
    with_verdict,
)
from slipway.core.rollout import PodObservation, RolloutObservation
from slipway.core.routing import Slot
from slipway.ports import Releases, StoredRecord
from slipway.settings import require_gateway_evidence
from tasks.approval import ApprovalDesk
from tasks.guard import GuardedRegistry, GuardedTraffic, GuardedWorkloads
from tasks.lock import LockKeeper, take_lock
from tasks.progress import Progress
from tasks.takeover import put_alias_right, stamp_objects

_SAVES = 3
_STAMPS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """How long one stage took in this process, and what it proved."""

    stage: str
    seconds: float
    proof: str


class ReleaseSession:
    """What every task of a release gets: the ports, and the record under its lock.

    Not a dataclass on purpose: Prefect walks into dataclass arguments of tasks.
    """

    def __init__(
        self, ports: Ports, stored: StoredRecord, keeper: LockKeeper, progress: Progress
    ) -> None:
        self.ports = replace(
            ports,
            workloads=GuardedWorkloads(ports.workloads, keeper.check, fence=keeper.lease.fence),
            traffic=GuardedTraffic(ports.traffic, keeper.check, fence=keeper.lease.fence),
            registry=GuardedRegistry(ports.registry, keeper.check),
        )
        self.spec = ports.spec
        self.progress = progress
        self.times: list[StageTime] = []
        self.already_done = False
        self.bake_watch: BakeWatch | None = None
        self.ramp_watch: RampWatch | None = None
        self.held_since_s: float | None = None
        self.desk: ApprovalDesk | None = None
        self._stored = stored
        self._keeper = keeper

    @property
    def record(self) -> ReleaseRecord:
        """The record as last written."""
        return self._stored.record

    def reached(self, phase: Phase) -> bool:
        """Return whether an earlier run has already proved `phase`."""
        return self.record.has_reached(phase)

    def save(self, record: ReleaseRecord) -> None:
        """Write the record; nothing is written once the lock is lost.

        Raises:
            ConflictError: the lock is lost, or somebody else wrote the record.
        """
        self._stored = saved(self.ports.releases, self._keeper, record, self._stored.version)

    def check_lock(self) -> None:
        """Raise unless the lock is surely ours; writes through `ports` do so by themselves."""
        self._keeper.check()

    def regain_lock(self) -> None:
        """Wait until the API server answers and the lock is proved to be ours.

        Raises:
            ConflictError: it is another's now, or the API server stayed away for too long.
        """
        self._keeper.regain()

    def intend(self, intent: str) -> None:
        """Write down what is about to be written to the outside."""
        self.save(begin(self.record, intent))
        self._keeper.check()  # the write above may have taken longer than the lock lasts

    def advance(self, phase: Phase, reason: str) -> None:
        """Write down what has been proved."""
        self.save(advance(self.record, phase, reason=reason, now_ns=time.time_ns()))

    def hold(self, reason: str, *, timeout_s: float) -> None:
        """Write down that the release waits for a person or for data."""
        now_ns = time.time_ns()
        self.save(hold(self.record, reason=reason, timeout_s=timeout_s, now_ns=now_ns))

    def go_on(self, reason: str) -> None:
        """Write down that it waits no longer."""
        self.save(go_on(self.record, reason=reason, now_ns=time.time_ns()))

    def fail(self, error: SlipwayError) -> None:
        """Write down why the release is taken back, in the write that begins the taking back."""
        failed = replace(self.record, failure_code=error.code)
        now_ns = time.time_ns()
        self.save(advance(failed, Phase.ROLLING_BACK, reason=error.message, now_ns=now_ns))

    def judge(self, verdict: StageVerdict) -> None:
        """Write down a stage's verdict."""
        self.save(with_verdict(self.record, verdict))

    def put_evidence(self, name: str, body: bytes | dict[str, Any], content_type: str) -> str:
        """Store evidence of this release; returns its key.

        No object store knows our lock. So the lock's number stands in the key: what a process
        writes that has lost it without knowing lies beside the evidence that counts, never over it.

        Raises:
            ConflictError: the lock is lost; the evidence now belongs to another process.
        """
        self._keeper.check()
        fence = self._keeper.lease.fence
        key = f"{evidence_prefix(self.record)}{fence:06d}/{name}"
        raw = body if isinstance(body, bytes) else json.dumps(body, indent=2).encode()
        self.ports.objects.put(key, raw, content_type=content_type)
        return key

    def observe(self, slot: Slot) -> RolloutObservation | None:
        """Return what the cluster says of a slot's Deployment now."""
        workload = self.record.slot(slot).workload
        return self.ports.workloads.observe(self.spec.namespace, workload)

    def ready_pods(self, slot: Slot) -> tuple[PodObservation, ...]:
        """Return the slot's pods that can serve now."""
        observed = self.observe(slot)
        return () if observed is None else observed.ready_pods

    def remove_pod(self, name: str) -> None:
        """Delete a bare pod that an earlier run may have left; none is no error."""
        left = self.ports.workloads.pod(self.spec.namespace, name)
        if left is not None:
            self.ports.workloads.delete("Pod", self.spec.namespace, name, uid=left.uid)


def evidence_prefix(record: ReleaseRecord) -> str:
    """Return the prefix of a release's evidence in the object store."""
    return f"releases/{record.service}/{record.release_id}/"


@contextmanager
def opened_release(service: str, version: str) -> Iterator[ReleaseSession]:
    """Connect to the installation, take the service's lock and open its record.

    Raises:
        InputError: unknown service or version.
        ConflictError: another release of the service runs or is unfinished.
        PermanentError: the service is not installed.
    """
    settings = current_settings()
    require_gateway_evidence(settings)
    ports = connect(service, settings)
    ports.registry.version(ports.spec.model, version)  # an unknown one is refused before any write
    holder = f"{socket.gethostname()}/{getpid()}/{secrets.token_hex(4)}"
    progress = Progress(f"{service} v{version}")
    lease = take_lock(ports.releases, service, holder=holder, report=progress.say)
    keeper = LockKeeper(ports.releases, lease, report=progress.say)
    try:
        stored, already_done = _open_record(ports, keeper, version, progress)
        session = ReleaseSession(ports, stored, keeper, progress)
        session.already_done = already_done
        yield session
    finally:
        keeper.close()


def _open_record(
    ports: Ports, keeper: LockKeeper, version: str, progress: Progress
) -> tuple[StoredRecord, bool]:
    spec = ports.spec
    stored = _stamped_record(ports.releases, keeper, spec.name)
    stamp_objects(ports, keeper, stored.record if stored else None)
    if stored is not None:
        put_alias_right(ports, keeper, stored.record, report=progress.say)
    admission = admit(
        Request(
            service=spec.name,
            model=spec.model,
            version=version,
            strategy=spec.policy.strategy,
            steps=spec.policy.ramp.steps,
        ),
        stored.record if stored else None,
        token=secrets.token_hex(16),
        fence=keeper.lease.fence,
        now_ns=time.time_ns(),
    )
    if isinstance(admission, AlreadyDone) and stored is not None:
        progress.say(f"version {version} is live already: nothing to do")
        return stored, True
    if isinstance(admission, Resume) and stored is not None:
        progress.say(f"going on with {admission.record.release_id} from {admission.record.phase}")
        return stored, False
    record = admission.record
    return saved(ports.releases, keeper, record, stored.version if stored else None), False


def _stamped_record(releases: Releases, keeper: LockKeeper, service: str) -> StoredRecord | None:
    """Return the record, written anew under our lock's number; None when there is none."""
    for _ in range(_STAMPS - 1):
        try:
            return _stamped_once(releases, keeper, service)
        except ConflictError as error:
            if error.code != "conflict":
                raise
            # The former holder still lives, and was the last whose write went through.
    return _stamped_once(releases, keeper, service)


def _stamped_once(releases: Releases, keeper: LockKeeper, service: str) -> StoredRecord | None:
    stored = releases.load(service)
    return None if stored is None else saved(releases, keeper, stored.record, stored.version)


def saved(
    releases: Releases, keeper: LockKeeper, record: ReleaseRecord, version: str | None
) -> StoredRecord:
    """Write the record under our lock's number, once, though the answer may be lost on the way.

    An answer that is lost leaves open whether the record was written. Once the API server answers
    again and the lock is still ours, the stored record tells: nobody else writes it.

    Raises:
        ConflictError: the lock is lost, or somebody else wrote the record.
        TransientError: the API server went away more often than is worth waiting for.
    """
    record = replace(record, fence=keeper.lease.fence)
    keeper.check()
    for _ in range(_SAVES - 1):
        try:
            return releases.save(record, version=version)
        except TransientError:
            keeper.regain()
        found = releases.load(record.service)
        if found is not None and found.record == record:
            return found
    return releases.save(record, version=version)


def lock_is_lost(error: BaseException) -> bool:
    """Return whether `error` means that another process may own the service now."""
    return isinstance(error, ConflictError) and error.code in {"lock-lost", "conflict"}


def timed(session: ReleaseSession, stage: str, body: Callable[[ReleaseSession], str]) -> str:
    """Run one stage, note its time and its proof or failure, and say so."""
    started = time.monotonic()

    def note(proof: str) -> float:
        seconds = time.monotonic() - started
        session.times.append(StageTime(stage=stage, seconds=seconds, proof=proof))
        return seconds

    try:
        with session.progress.stage(stage):
            proof = body(session)
    except SlipwayError as error:
        note(f"failed: {error.message}")
        if isinstance(error, TransientError):
            session.regain_lock()  # what comes next needs an API server that answers
        raise
    session.progress.done(stage, note(proof), proof)
    return proof
