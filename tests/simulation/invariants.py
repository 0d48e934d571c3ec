"""R1 to R8 of DESIGN §3, looked at after every step of a schedule.

What a release owes to those who asked for it stands in `duties`.
"""

from __future__ import annotations

from slipway.core.release.orphan import users_on_dead_candidate
from slipway.core.release.record import Phase, ReleaseRecord
from slipway.core.release.scaling import replicas_for
from slipway.core.routing import Route, Slot
from slipway.core.verdicts import Verdict
from slipway.manifests.release_objects import record_name
from slipway.ports.records import Lease
from tests.flow.world import MODEL, SERVICE
from tests.simulation.autoscaled import KINDS, Autoscaled
from tests.simulation.engine import Engine, SimulationError
from tests.simulation.scenario import Scenario
from tests.simulation.wires import Trouble
from tests.simulation.world import SharedWorld

_NS_PER_S = 1_000_000_000
_SOON_NS = 5 * _NS_PER_S
_LONG_NS = 40 * _NS_PER_S
_WORKLOADS = tuple((slot, f"{SERVICE}-{slot}") for slot in Slot)
_MOST_USERS_AT_ONCE = 24
_ROUTE_KINDS = ("VirtualService", "DestinationRule")


class Invariants:
    """Judges every write when it takes effect, and the world after every step and at its end."""

    def __init__(
        self,
        engine: Engine,
        world: SharedWorld,
        asked: Scenario,
        trouble: Trouble,
        *,
        scaled: Autoscaled,
    ) -> None:
        self._engine, self._world, self._asked, self._trouble = engine, world, asked, trouble
        self._scaled = scaled
        self._ready = dict.fromkeys(Slot, 0)
        self._was_ready_ns: dict[Slot, dict[int, int]] = {slot: {} for slot in Slot}
        self._dead_since_ns: int | None = None
        self._changed = True
        self._users = 0.0
        self._alias_fence = 0  # of the lock, when a stale process moved the alias last

    # -- called while it runs ---------------------------------------------------------------------

    def note_pods(self) -> None:
        """Note how many pods of each slot are ready now."""
        now_ns, cluster = self._engine.clock.now_ns, self._world.cluster
        for slot, workload in _WORKLOADS:
            found = cluster.deployments.get((self._world.spec.namespace, workload))
            count = sum(pod.ready for pod in found.pods) if found else 0
            self._ready[slot] = count
            for number in range(1, count + 1):
                self._was_ready_ns[slot][number] = now_ns
        self._changed = True

    def wrote(self, what: str) -> None:
        """Judge a write that has just taken effect."""
        self._engine.say(f"=> {what}")
        self.note_pods()
        self._require_own_number(what)
        if what.startswith("record "):
            self._require_all_stamped(what)
        if what.startswith("alias "):
            self._require_alias_behind_users(what)

    def judge_route(self, before: Route, route: Route) -> None:
        """Judge a route before it takes effect: R1, R2, R3."""
        record = self._record()
        for slot in Slot:
            if route.percent(slot) > before.percent(slot) or (
                route.names(slot) and not before.names(slot)
            ):
                self._require_pods(record, slot, route)
        if record is None or record.terminal:
            return
        share = route.percent(record.candidate)
        if share > before.percent(record.candidate):
            self._require_evidence(record, share)

    def judge_taking(self, found: Lease) -> None:
        """Judge a lock before it is taken: nobody but the watcher takes it from who lives."""
        now_ns, taker = self._engine.clock.now_ns, self._engine.process
        if taker is None or taker.kind == "watcher" or not found.holder:
            return
        if now_ns - self._trouble.excused_until_ns < _LONG_NS:
            return  # it may have been unable to renew
        for process in self._engine.processes:
            held = process.fence == found.fence and process is not taker
            if held and not (process.dead or process.ended or process.stopped_until_ns > now_ns):
                raise SimulationError(f"R4: {taker} takes the lock of {process}, which lives")

    def after_step(self) -> None:
        """Judge the world: users leave a candidate that died."""
        if self._changed:
            self._changed = False
            self._look_for_dead_candidate()
        if self._dead_since_ns is None:
            return
        since_ns = max(self._dead_since_ns, self._trouble.excused_until_ns)
        if self._engine.clock.now_ns - since_ns > _SOON_NS:
            raise SimulationError("R5: users were left on a dead candidate for more than 5 s")

    def pass_time(self, seconds: float) -> None:
        """Let users ask while time passes: R6."""
        self.after_step()
        if self._scaled.act(self._record()):
            self.note_pods()
        self._users += seconds * 8
        asking, self._users = int(self._users), self._users % 1
        record = self._record()
        # Between two releases nobody counts them: one tells whether users are served.
        most = 1 if record is None or record.terminal else _MOST_USERS_AT_ONCE
        got = self._world.gateway.streams(min(asking, most))
        if 503 in got and not self._asked.pods_die:
            raise SimulationError("R6: a user was refused though every pod was well")

    # -- the rules --------------------------------------------------------------------------------

    def _record(self) -> ReleaseRecord | None:
        return self._world.record if SERVICE in self._world.cluster.records else None

    def _require_pods(self, record: ReleaseRecord | None, slot: Slot, route: Route) -> None:
        process, clock = self._engine.process, self._engine.clock
        needed = 1
        if record is not None and slot is record.candidate and not record.terminal:
            needed = max(1, replicas_for(route.percent(slot), self._scaled.pods_needed))
        elif self._world.cluster.ready_count(SERVICE, slot.other) == 0:
            return  # neither serves: there is no better place for the users
        if process is None or self._world.cluster.ready_count(SERVICE, slot) >= needed:
            return
        looked_ns = process.looked_ns.get(slot.value, 0)
        if self._was_ready_ns[slot].get(needed, -1) < looked_ns:
            raise SimulationError(f"R1, R2: slot {slot} gets users with fewer than {needed} pods")
        stopped = process.stopped_until_ns > looked_ns
        if clock.now_ns - looked_ns > _SOON_NS and not stopped:
            old_s = (clock.now_ns - looked_ns) / _NS_PER_S
            raise SimulationError(f"R2: slot {slot} gets users after a look {old_s:.1f} s ago")

    def _require_evidence(self, record: ReleaseRecord, share: int) -> None:
        told = {item.stage: item.verdict for item in record.verdicts}
        if record.phase not in {Phase.RAMPING, Phase.PROMOTED, Phase.BAKING}:
            raise SimulationError(f"R2: users rise to {share} % in phase {record.phase}")
        if Verdict.FAIL in told.values() or Verdict.ERROR in told.values():
            raise SimulationError(f"R3: users rise to {share} % on {told}")
        proofs = [] if record.rollback else ["test", "benchmark"]
        if share == 100 and record.steps:
            proofs.append(f"ramp {record.steps[-1].weight_percent} %")
        missing = [name for name in proofs if told.get(name) is not Verdict.PASS]
        if missing or not record.tested_pod_uids:
            raise SimulationError(f"R2: users rise to {share} % without {missing or 'pods'}")
        for step in record.steps:
            if step.weight_percent == share and not record.is_approved(step):
                raise SimulationError(f"R2: nobody allowed {share} %")
        self._require_good_version(record, share)

    def _require_good_version(self, record: ReleaseRecord, share: int) -> None:
        bad = self._asked.bad
        refused_before_users = bad in {"answers", "slow"} and not record.rollback
        seen_by_users = bad == "users" and share == 100 and bool(record.steps)
        if refused_before_users or (seen_by_users and record.candidate is Slot.GREEN):
            raise SimulationError(f"R3: a version with bad {bad} gets {share} % of the users")

    def _require_own_number(self, what: str) -> None:
        process, guarded = self._engine.process, _guarded(what)
        if process is None or not guarded:
            return
        for kind, name in guarded:
            held = self._world.cluster.fences.get((kind, name))
            if held is None or process.fence is None or process.fence < held:
                raise SimulationError(
                    f"R4: {process} wrote {kind} {name} under {process.fence}, it is at {held}"
                )

    def _require_all_stamped(self, what: str) -> None:
        process, cluster = self._engine.process, self._world.cluster
        if process is None:
            return
        guarded = [(kind, SERVICE) for kind in _ROUTE_KINDS]
        guarded += [("Deployment", item.name) for item in cluster.deployments.values()]
        guarded += [(kind, name) for _, kind, name in cluster.autoscalers]
        behind = [item for item in guarded if cluster.fences.get(item) != process.fence]
        if behind:
            raise SimulationError(f"R4: {what!r} is decided before {behind} are stamped")

    def _require_alias_behind_users(self, what: str) -> None:
        process, lease = self._engine.process, self._world.cluster.leases[SERVICE]
        record = self._record()
        self._alias_fence = lease.fence
        if process is None or record is None or process.fence != lease.fence:
            return  # a registry knows no fence: the next release puts the alias right
        self._alias_fence = 0
        version, route = what.rpartition(" ")[2], self._world.cluster.routes[SERVICE]
        for slot in Slot:
            if route.percent(slot) == 100 and record.slot(slot).version == version:
                return
        raise SimulationError(f"R8: {what} before the users were there: {route.shares}")

    def _look_for_dead_candidate(self) -> None:
        cluster, record, ready = self._world.cluster, self._record(), self._ready
        if record is None or record.terminal:
            self._dead_since_ns = None
        elif users_on_dead_candidate(record, cluster.routes[SERVICE], ready):
            self._dead_since_ns = self._dead_since_ns or self._engine.clock.now_ns
        else:
            self._dead_since_ns = None

    # -- at the end -------------------------------------------------------------------------------

    def at_rest(self) -> bool:
        """Return whether nothing is left to do."""
        record = self._record()
        return (
            record is not None
            and record.terminal
            and record.retire_after_ns == 0
            and not self._lock_is_held()
        )

    def _lock_is_held(self) -> bool:
        return self._world.cluster.leases[SERVICE].holder != ""

    def require_tidy(self) -> None:
        """Judge the world at rest: R5, R7, R8."""
        record, cluster, world = self._record(), self._world.cluster, self._world
        if record is None or not record.reason:
            raise SimulationError("R5: the end has no reason")
        live, route = record.live_slot, cluster.routes[SERVICE]
        if live is None:
            raise SimulationError("R5: nobody serves any more")
        _require(route.percent(live) == 100, f"R5: users are on {route.shares}, not on {live}")
        _require(route.preview is None, "R7: a preview route is left")
        _require(route.subsets == {live}, f"R7: subsets {sorted(route.subsets)} are left")
        _require(cluster.gateway_routes[SERVICE] == route, "R7: the gateway serves another route")
        _require(not cluster.pods, f"R7: pods {sorted(cluster.pods)} are left")
        _require(record.intent == "", f"R7: intent {record.intent!r} is left")
        if not self._asked.pods_die:
            _require(cluster.ready_count(SERVICE, live) > 0, f"R5: slot {live} has no ready pod")
        left = world.replicas(live.other)
        _require(left == 0, f"R7: slot {live.other} keeps {left} pods")
        self._scaled.require_tidy(live)
        if self._alias_fence == cluster.leases[SERVICE].fence:
            return  # the next release puts it right
        due = record.slot(live).version
        _require(world.alias == due, f"R8: alias {world.alias}, users on version {due}")
        alias = world.registry.aliases.get((MODEL, "live"))
        _require(alias == due, f"R8: alias {alias}")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise SimulationError(what)


def _guarded(what: str) -> list[tuple[str, str]]:
    """Return the guarded objects that a write of the journal changed."""
    words = what.split(" ")
    if words[0] == "record" or what == f"stamp {record_name(SERVICE)}":
        return [("ConfigMap", record_name(SERVICE))]
    if words[0] == "route":
        return [(kind, SERVICE) for kind in _ROUTE_KINDS]
    if words[0] in {"stamp", "apply"} and words[1] in {"Deployment", *KINDS, *_ROUTE_KINDS}:
        return [(words[1], words[2].rstrip(","))]
    if words[0] == "floor":
        return [(words[2], words[3])]
    return [("Deployment", words[1])] if words[0] == "scale" else []
