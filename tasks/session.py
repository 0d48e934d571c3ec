"""One release in the hands of one process: its ports, its record, its lock."""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from os import getpid
from typing import Any

from blocks.installation import current_settings
from slipway.bootstrap.releases import Ports, connect
from slipway.core.errors import ConflictError, SlipwayError, TransientError
from slipway.core.release.admission import AlreadyDone, Resume, admit, requested
from slipway.core.release.bake import BakeWatch
from slipway.core.release.holder import holder_name
from slipway.core.release.orders import Leftover, Meaning, Order, leftover, stop_by
from slipway.core.release.ramp import RampWatch
from slipway.core.release.record import (
    Approval,
    Phase,
    ReleaseRecord,
    StageVerdict,
    advance,
    begin,
    go_on,
    hold,
    with_approval,
    with_verdict,
)
from slipway.core.release.scaling import Scaling
from slipway.core.rollout import PodObservation, RolloutObservation
from slipway.core.routing import Slot
from slipway.ports.records import Lease, Releases, StoredRecord
from slipway.settings import Settings, require_gateway_evidence
from tasks.approval import ApprovalDesk
from tasks.feasibility import (
    await_feasible,
    begins,
    rehearse,
    require_feasible,
    require_split_filter,
)
from tasks.guard import GuardedAutoscalers, GuardedRegistry, GuardedTraffic, GuardedWorkloads
from tasks.lock import PATIENCE_S, LockKeeper
from tasks.orders import OrderWatch
from tasks.progress import Progress
from tasks.takeover import put_alias_right, refuse_other_autoscalers, stamp_objects
from tasks.turn import turn

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
        self,
        ports: Ports,
        stored: StoredRecord,
        keeper: LockKeeper,
        progress: Progress,
        *,
        own: Order | None = None,
    ) -> None:
        self.ports = replace(
            ports,
            workloads=GuardedWorkloads(ports.workloads, keeper.check, fence=keeper.lease.fence),
            autoscalers=GuardedAutoscalers(
                ports.autoscalers, keeper.check, fence=keeper.lease.fence
            ),
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
        self.short_since_s: float | None = None
        self.desk: ApprovalDesk | None = None
        self._stored = stored
        self._keeper = keeper
        self._failing_since_s: float | None = None
        self._orders = OrderWatch(
            ports.orders,
            when_busy=ports.spec.policy.when_busy,
            own=own,
            report=progress.say,
        )

    @property
    def record(self) -> ReleaseRecord:
        """The record as last written."""
        return self._stored.record

    @property
    def stored(self) -> StoredRecord:
        """The record as last written, with the version that guards the next write."""
        return self._stored

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

    def check_orders(self, *, now: bool = False) -> None:
        """Obey what was ordered since the last look; may be called in every poll of a wait.

        A yes to a step of the canary goes into the record. Orders about a release that is being
        taken back, or has ended, change nothing.

        Args:
            now: look even when the last look was less than a second ago.

        Raises:
            PermanentError: `aborted` by a person, or `superseded` by a newer request.
        """
        for order, means in self._orders.look(self.record, now=now):
            if means is Meaning.APPROVE:
                self._approve(order)
            stop = stop_by(order, means, self.record)
            if stop is not None:
                raise stop

    def clear_orders(self) -> None:
        """Remove the orders whose effect is in the record; best effort, the next holder does it."""
        with suppress(SlipwayError):
            self._orders.clear(self.record)

    def _approve(self, order: Order) -> None:
        given = Approval(weight_percent=order.weight_percent, by=order.by, at_ns=order.at_ns)
        self.save(with_approval(self.record, given))
        self.progress.say(f"{order.by} allows the step to {order.weight_percent} %")
        self.clear_orders()

    def regain_lock(self) -> None:
        """Wait until the API server answers and the lock is proved to be ours.

        Raises:
            ConflictError: it is another's now, or the API server stayed away for too long.
        """
        self._keeper.regain()

    @contextmanager
    def outlived(self) -> Iterator[None]:
        """Let a look of a long watch fail for a while: the next one follows.

        A task may be repeated twice, which is little for one that looks for hours. So looks may
        fail in a row as long as the API server may be away; a single good one begins anew.

        Raises:
            TransientError: they have failed for longer than that.
            ConflictError: the lock is lost meanwhile.
        """
        try:
            yield
        except TransientError as error:
            now_s = time.monotonic()
            if self._failing_since_s is None:
                self._failing_since_s = now_s
            if now_s - self._failing_since_s > PATIENCE_S:
                raise
            self.progress.say(f"{error.message}: looking again")
            self.regain_lock()
        else:
            self._failing_since_s = None

    def intend(self, intent: str, *, scaling: Scaling | None = None) -> None:
        """Write down what is about to be written to the outside.

        Args:
            scaling: what autoscalers are to keep from now on; None leaves it as it is.
        """
        self.save(begin(self.record, intent, scaling=scaling))
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


Settle = Callable[[ReleaseSession, Leftover], None]
"""Takes back or finishes what a process that died has left, before the next release begins."""


@contextmanager
def opened_release(service: str, version: str, *, settle: Settle) -> Iterator[ReleaseSession]:
    """Connect to the installation, take the service's lock in turn and open its record.

    Args:
        service: to release to.
        version: to release.
        settle: does away with another version's unfinished release, as the policy allows.

    Raises:
        InputError: unknown service or version.
        ConflictError: another release of the service runs, is unfinished, or came later.
        PermanentError: the service is not installed, somebody else scales its slots, or
            `infeasible`: the release could not be carried out.
    """
    ports, progress = connected(service), Progress(f"{service} v{version}")
    ports.registry.version(ports.spec.model, version)  # an unknown one is refused before any write
    seen = refuse_begin(ports)
    looked = begins(ports, version, seen, fence=0)
    if looked is not None:
        await_feasible(ports, looked, recorded=seen is not None, report=progress.say)
    with (
        turn(ports, version, holder=new_holder(), report=progress.say) as (lease, own),
        taken_over(ports, lease, progress) as (keeper, found),
    ):
        before = found
        if found is not None:
            put_alias_right(ports, keeper, found.record, report=progress.say)
            left = ReleaseSession(ports, found, keeper, progress, own=own)
            _settle_leftover(left, version, settle)
            before = left.stored
        record = before.record if before else None
        again = begins(ports, version, record, fence=keeper.lease.fence)
        # Others may have changed a lot since, or the look may have had to wait for the lock.
        if again is not None and (looked is None or again.release_id != looked.release_id):
            require_feasible(ports, again, recorded=record is not None)
        if again is not None:
            rehearse(ports, keeper, again)
        stored, already_done = _open_record(ports, keeper, before, version, progress)
        session = ReleaseSession(ports, stored, keeper, progress, own=own)
        session.already_done = already_done
        with cleared_orders(session):
            yield session


def refuse_begin(ports: Ports) -> ReleaseRecord | None:
    """Refuse, before any write, a release that would fight with somebody else.

    One that is unfinished is not looked at: it must be brought to its end, there or back.

    Returns:
        the service's record as it is now; None before the first release.

    Raises:
        PermanentError: `autoscaler-foreign`, `split-filter-missing`.
    """
    stored = ports.releases.load(ports.spec.name)
    record = stored.record if stored else None
    if record is None or record.terminal:
        refuse_other_autoscalers(ports, record)
        require_split_filter(ports)
    return record


def connected(service: str) -> Ports:
    """Return the ports of a service of the installation that this process is for.

    Raises:
        InputError: unknown service, or the gateway's evidence is out of reach.
    """
    settings = installation()
    ports = connect(service, settings)
    require_gateway_evidence(settings, ports.spec.router)
    return ports


def installation() -> Settings:
    """Return the settings of the installation that this process is for.

    Raises:
        InputError: neither a block nor the environment says where it is.
    """
    return current_settings()


def new_holder() -> str:
    """Return a name for a holder of a lock, unique to this process."""
    return holder_name(socket.gethostname(), getpid(), secrets.token_hex(4))


@contextmanager
def taken_over(
    ports: Ports, lease: Lease, progress: Progress
) -> Iterator[tuple[LockKeeper, StoredRecord | None]]:
    """Renew a lock meanwhile, its number on all that it guards, and give it back.

    Yields the service's record too, as it stands under our number; None before the first release.

    Raises:
        ConflictError: `lock-lost`, another process took over.
        PermanentError: the service is not installed.
    """
    keeper = LockKeeper(ports.releases, lease, report=progress.say)
    try:
        stored = _stamped_record(ports.releases, keeper, ports.spec.name)
        stamp_objects(ports, keeper, stored.record if stored else None)
        yield keeper, stored
    finally:
        keeper.close()


@contextmanager
def cleared_orders(session: ReleaseSession) -> Iterator[None]:
    """Clear away old orders before a release and those about it after it.

    A process that dies between leaves them to the next one. When the lock is lost they are another
    process's to obey.
    """
    session.clear_orders()
    try:
        yield
    except SlipwayError as error:
        if not lock_is_lost(error):
            session.clear_orders()
        raise
    session.clear_orders()


def _settle_leftover(session: ReleaseSession, version: str, settle: Settle) -> None:
    when_busy = session.spec.policy.when_busy
    left = leftover(session.record, version=version, when_busy=when_busy)
    if left in {Leftover.TAKE_BACK, Leftover.FINISH}:
        with cleared_orders(session):
            settle(session, left)


def _open_record(
    ports: Ports,
    keeper: LockKeeper,
    stored: StoredRecord | None,
    version: str,
    progress: Progress,
) -> tuple[StoredRecord, bool]:
    admission = admit(
        requested(ports.spec, version),
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
