"""What a release owes beyond R1 to R8: it says what it does, proves it, obeys, and gets there.

A process that refuses everything breaks none of the promises about users. So schedules in which
nothing goes wrong must end as was asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slipway.core.release.orders import Meaning, Order, OrderKind, meaning
from slipway.core.release.record import FORWARD, Phase, ReleaseRecord
from slipway.core.routing import Route, Slot
from slipway.core.service import Strategy, WhenBusy
from slipway.evaluation.integrity import weights_digest
from tests.flow.world import MODEL, SERVICE
from tests.simulation.engine import Engine, Process, SimulationError
from tests.simulation.scenario import Asked, Scenario
from tests.simulation.wires import Trouble
from tests.simulation.world import SharedWorld

_NS_PER_S = 1_000_000_000
_OBEYED_WITHIN_NS = 3 * _NS_PER_S
_FIRST_RELEASE = 1  # its one benchmark
_SEEN_BY_GATEWAY = frozenset({Phase.SMOKED, Phase.PROMOTED, Phase.DONE, Phase.ROLLED_BACK})
_NO_REASONS = frozenset({"phase-order", "conflict", "lock-lost"})
"""Failures of a process, never of a release."""
_TOLD = ("apply ", "route ", "push ", "delete ", "floor ", "remove ", "scale ")
"""Writes that the record must have announced."""

_LONG_AFTER_S = 300.0


@dataclass(frozen=True, slots=True)
class _End:
    """How a schedule ends: phase and failure of the last record, version that serves."""

    phase: Phase
    code: str
    live: str


_EVIDENCE = {
    Phase.TESTED: {"model-test.json"},
    Phase.BENCHMARKED: {
        *("benchmark-requests.parquet", "benchmark-comparison.parquet", "benchmark.md")
    },
}


def _evidence(record: ReleaseRecord) -> set[str]:
    """Return the names of the evidence that a release has left."""
    needed = {"record.json"}
    if record.rollback:
        return needed
    for entry in record.history:
        needed |= _EVIDENCE.get(entry.phase, set())
    if record.steps and record.phase is Phase.DONE:
        needed.add("ramp.json")
    return needed


_DONE = _End(Phase.DONE, "", "2")
_ABORTED = _End(Phase.ROLLED_BACK, "aborted", "1")
_ALONE = {
    "": _DONE,
    "answers": _End(Phase.ROLLED_BACK, "model-test-failed", "1"),
    "slow": _End(Phase.ROLLED_BACK, "benchmark-failed", "1"),
}
"""By what is wrong with the version."""


def _expected(asked: Scenario) -> _End | None:
    """Return what a calm schedule must come to; None when that is open."""
    if len(asked.asked) == 1:
        return _expected_alone(asked)
    if len(asked.asked) > 2 or asked.bad or asked.approvals_s or asked.policy["bake_s"] == 0:
        return None
    return _expected_of_two(asked, asked.asked[1])


def _expected_alone(asked: Scenario) -> _End | None:
    if asked.bad in {"answers", "slow"}:
        return _ALONE[asked.bad]
    if asked.approvals_s and min(asked.approvals_s) > asked.hold_timeout_s:
        return None  # in time or not: a step asks some seconds after the beginning
    if asked.bad != "users":
        return _ALONE[asked.bad]
    if asked.strategy is Strategy.CANARY:
        return None if asked.approvals_s else _End(Phase.ROLLED_BACK, "canary-failed", "1")
    return _End(Phase.ROLLED_BACK, "bake-failed", "1") if asked.policy["bake_s"] else None


def _expected_of_two(asked: Scenario, second: Asked) -> _End | None:
    meanwhile = 0.5 <= second.at_s < 2.0
    if not meanwhile and second.at_s < _LONG_AFTER_S:
        return None
    if meanwhile and second.what != "release":
        return None if second.what == "reconcile" else _ABORTED
    if meanwhile and asked.policy["when_busy"] is WhenBusy.REFUSE:
        return None  # or the first one has ended before it was seen to live
    ends = {"release": second.version, "rollback": "1"}
    return _End(Phase.DONE, "", ends.get(second.what, "2"))


class Duties:
    """Judges every write when it takes effect, and the world at its end."""

    def __init__(
        self, engine: Engine, world: SharedWorld, asked: Scenario, trouble: Trouble
    ) -> None:
        self._engine, self._world, self._asked, self._trouble = engine, world, asked, trouble
        self._ordered_ns: dict[str, int] = {}
        self._had_users = {Slot.BLUE}

    def wrote(self, what: str) -> None:
        """Judge a write that has just taken effect."""
        if what.startswith("order "):
            self._note_orders()
        if self._holder() is None:
            return  # what a stale process may still write is R4's to judge
        record = self._world.record
        if what.startswith(_TOLD) and not record.intent:
            raise SimulationError(
                f"intent: {what!r} is written, and the record tells nothing of it"
            )
        if what.startswith(("scale ", "apply Deployment ")):
            self._require_drained(what)
        if what.startswith("record "):
            self._require_seen_by_gateway(record)
            if record.phase in FORWARD:
                self._require_obedience(record)

    def judge_route(self, before: Route, route: Route) -> None:
        """Judge a route before it takes effect: streams end before their slot is forgotten."""
        self._had_users |= {slot for slot in Slot if before.percent(slot) > 0}
        for slot in before.subsets - route.subsets:
            self._require_no_streams(slot, f"slot {slot} is forgotten by the gateway")

    # -- the rules --------------------------------------------------------------------------------

    def _holder(self) -> Process | None:
        """Return the process that runs, when it holds the lock."""
        process, lease = self._engine.process, self._world.cluster.leases[SERVICE]
        return process if process is not None and process.fence == lease.fence else None

    def _note_orders(self) -> None:
        standing = {order.order_id for order in self._orders()}
        now_ns = self._engine.clock.now_ns
        self._ordered_ns = {key: self._ordered_ns.get(key, now_ns) for key in standing}

    def _orders(self) -> tuple[Order, ...]:
        return self._world.orders.read(SERVICE).orders

    def _require_seen_by_gateway(self, record: ReleaseRecord) -> None:
        cluster = self._world.cluster
        proved = record.phase in _SEEN_BY_GATEWAY or record.weight_percent > 0
        behind = cluster.gateway_routes[SERVICE] != cluster.routes[SERVICE]
        if proved and behind and not record.intent:
            raise SimulationError(f"proof: phase {record.phase}, and the gateway is not there yet")

    def _require_obedience(self, record: ReleaseRecord) -> None:
        orders, when_busy = self._orders(), self._world.spec.policy.when_busy
        asked = [o for o in orders if o.kind is OrderKind.RELEASE and o.version == record.version]
        excused_ns = self._trouble.excused_until_ns
        if "users to slot" not in record.intent:  # nobody moves before the orders are looked at
            excused_ns = max(excused_ns, self._trouble.benchmarked_ns)
        own = max(asked, key=lambda order: order.number, default=None)
        for order in orders:
            means = meaning(order, record, when_busy=when_busy, own=own)
            stops = means is Meaning.ABORT or (means is Meaning.GIVE_WAY and own is not None)
            since_ns = max(self._ordered_ns[order.order_id], excused_ns)
            if stops and self._engine.clock.now_ns - since_ns > _OBEYED_WITHIN_NS:
                raise SimulationError(
                    f"orders: {order.kind} {order.version} has stood for more than 3 s"
                )

    def _require_drained(self, what: str) -> None:
        for slot in Slot:
            name = f"{SERVICE}-{slot}"
            if what in {f"scale {name} to 0", f"apply Deployment {name}"}:
                self._require_no_streams(slot, what)

    def _require_no_streams(self, slot: Slot, what: str) -> None:
        if self._asked.pods_die:
            return  # a stream whose own pod is hurt from outside is counted apart
        left = self._world.cluster.streams.get(slot, [])
        if slot in self._had_users and left and left[0] > 0:
            raise SimulationError(f"R6: {what}, {left[0]} streams are open there")

    # -- at the end -------------------------------------------------------------------------------

    def require_done(self, started: Sequence[Process]) -> None:
        """Judge how a calm schedule ended: as was asked for."""
        if self._world.record.failure_code in _NO_REASONS:
            raise SimulationError(f"reason: it ended for {self._world.record.reason}")
        lost = [item for item in started if item.error and item.error.code == "phase-order"]
        if lost:
            raise SimulationError(f"reason: {lost[0]} lost its way in the record")
        if not self._asked.calm:
            return
        expected = _expected(self._asked)
        if expected is None:
            return
        record = self._world.record
        live = record.slot(record.live_slot or Slot.BLUE).version
        ended = _End(record.phase, record.failure_code, live)
        errors = [item.error for item in started[1:] if item.kind != "approve" and item.error]
        refused = errors[0].message if errors else ""  # a yes may come when all is over
        if ended != expected or refused:
            what = refused or record.reason
            raise SimulationError(f"calm: {expected} was due, and it is {ended}: {what}")
        self._require_evidence(record)

    def _require_evidence(self, record: ReleaseRecord) -> None:
        stored = self._world.objects.objects
        missing = [v.stage for v in record.verdicts if v.evidence_key not in {"", *stored}]
        told = {key.rpartition("/")[2] for key in stored if f"/{record.release_id}/" in key}
        missing += sorted(_evidence(record) - told)
        if missing:
            raise SimulationError(f"calm: evidence is missing: {', '.join(missing)}")
        judged = any(verdict.stage == "benchmark" for verdict in record.verdicts)
        repeated = self._world.model.benchmarks > _FIRST_RELEASE + self._asked.invalid_tables
        if judged and not repeated:
            raise SimulationError("calm: a benchmark counts whose table was invalid")
        if not record.rollback and record.phase is Phase.DONE:
            self._require_digests(record)
        if self._world.cluster.leases[SERVICE].holder:
            raise SimulationError("calm: the lock was not given back")
        if not any(record.release_id in event.message for event in self._world.cluster.events):
            raise SimulationError("calm: no event tells how it ended")
        if self._world.cluster.orders[SERVICE]:
            raise SimulationError(f"calm: orders are left: {self._world.ordered()}")

    def _require_digests(self, record: ReleaseRecord) -> None:
        """Check that the record says what exactly serves: R2 binds the evidence to it."""
        version = self._world.registry.version(MODEL, record.version)
        held, digests = record.slot(record.candidate), record.digests
        known = (digests.weights, held.weights, digests.config)
        due = (weights_digest(version), weights_digest(version), version.config_sha256)
        running = {pod.image for pod in self._world.cluster.pods_of(SERVICE, record.candidate)}
        if known != due or running != {held.image} or not held.image.endswith(digests.image):
            raise SimulationError(f"calm: the record says {digests}, {running} of {due} runs")
