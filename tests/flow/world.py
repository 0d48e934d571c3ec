"""Everything a release touches, as fakes, around the real flow, tasks, rules and manifests."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
from prefect import Task

from flows.abort import abort
from flows.reconcile import reconcile
from flows.release import release
from flows.rollback import rollback
from slipway.bench.validation import TableReport
from slipway.bench.values import (
    CANDIDATE,
    STABLE,
    BenchmarkPlan,
    RequestTable,
    Target,
)
from slipway.bootstrap.releases import Ports
from slipway.core.errors import ConflictError, InputError, TransientError
from slipway.core.release.orders import Order, OrderKind, order_to_storage
from slipway.core.release.record import Phase, ReleaseRecord
from slipway.core.release.scaling import replicas_for
from slipway.core.release.storage import from_storage
from slipway.core.routing import Slot, all_to
from slipway.core.service import AutoscalerKind, RampPolicy, RampStep, Strategy
from slipway.manifests.names import RELEASE_LABEL
from slipway.ports.records import Lease, Releases
from slipway.settings import from_environment
from tasks import benchmark, former, image, model, ramp, traffic, warm_up, workload
from tasks import rollback as taking_back
from tasks.lock import LockKeeper
from tasks.watch import Watcher
from tests.examples import autoscaling, holder_on
from tests.fakes.autoscalers import FakeAutoscalerController, FakeAutoscalers
from tests.fakes.clock import FakeClock
from tests.fakes.cluster import FakeCluster
from tests.fakes.gateway import FakeGateway
from tests.fakes.journal import Journal, ProcessDied
from tests.fakes.orders import FakeOrders
from tests.fakes.preflight import FakePreflight
from tests.fakes.releases import FakeReleases
from tests.fakes.services import BASE_IMAGE, small_service
from tests.fakes.stores import FakeImageStore, FakeMetrics, FakeObjectStore, FakeRegistry
from tests.fakes.traffic import FakeTraffic
from tests.fakes.workloads import FakeWorkloads
from tests.flow.model import FakeEndpoint, FakeModel, table

SERVICE = "chat"
MODEL = "demo"
_HEAD_START_S = 60.0
_CLOCKED = (
    *("session", "traffic", "ramp", "workload", "waiting", "reporting", "lock"),
    *("orders", "turn", "abort", "former", "watch", "reconcile", "approve", "scaling"),
    *("warm_up", "plan", "takeover", "feasibility"),
)
_STAGES = (benchmark, former, image, model, ramp, traffic, warm_up, workload)


class World:
    """One service `chat` of model `demo`, installed, with versions 1 to 3 in the registry."""

    def __init__(self) -> None:
        self.environment = {
            "SLIPWAY_REGISTRY": "127.0.0.1:5000",
            "SLIPWAY_GATEWAY_URL": "http://127.0.0.1:8080",
            "SLIPWAY_GATEWAY_ADMIN_URLS": "http://127.0.0.1:8081",
            "SLIPWAY_ACCESS_LOG": "/dev/null",
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:5001",
        }
        self.journal = Journal()
        self.cluster = FakeCluster(clock=FakeClock(), journal=self.journal)
        self.cluster.install(SERVICE)
        self.spec = small_service(SERVICE)
        self.registry = FakeRegistry(self.journal)
        for number in (1, 2, 3):
            self.registry.add(MODEL, {"simulated.json": b'{"seed": %d}' % number})
        self.images = FakeImageStore(self.journal, bases=[BASE_IMAGE])
        self.objects = FakeObjectStore(self.journal)
        self.gateway = FakeGateway(self.cluster, SERVICE)
        self.model = FakeModel()
        self.workloads = FakeWorkloads(self.cluster)
        self.autoscalers = FakeAutoscalers(self.cluster)
        self.controller = FakeAutoscalerController(self.cluster)
        self.preflight = FakePreflight(self.cluster)
        self.releases = FakeReleases(self.cluster)
        self.orders = FakeOrders(self.cluster)
        self.traffic = FakeTraffic(self.cluster)
        self.metrics = FakeMetrics(self.cluster)
        self.started: list[str] = []
        self.told: list[str] = []

    def copy(self) -> World:
        """Return a world of its own in the same state, for another process and another model."""
        world = copy.deepcopy(self)
        world.journal.next_process()
        world.model = FakeModel()
        return world

    @property
    def clock(self) -> FakeClock:
        """The clock of the cluster and of the release."""
        return self.cluster.clock

    def enter(self, patch: pytest.MonkeyPatch) -> None:
        """Let every release of this test run in this world, without waiting."""
        patch.setattr("tasks.session.current_settings", self._settings)
        patch.setattr("tasks.session.connect", self._connect)
        patch.setattr("flows.reconcile.release", release.fn)
        patch.setattr("flows.reconcile.rollback", rollback.fn)
        for module in _CLOCKED:
            patch.setattr(f"tasks.{module}.time", self.clock)
        patch.setattr("tasks.traffic.httpx.post", self.gateway.post)
        patch.setattr("tasks.model.HttpChatEndpoint", self._endpoint)
        patch.setattr("tasks.benchmark.run", self._benchmark)
        patch.setattr("tasks.warm_up.run", self._ask_a_pod)
        # The validation library takes seconds to import: its rules have their own tests.
        patch.setattr("tasks.model.preload", _load_nothing)
        patch.setattr("tasks.benchmark.validate", self._validate)
        patch.setattr("tasks.reporting.create_markdown_artifact", _show_nothing)
        for part in (*_STAGES, taking_back):
            for item in vars(part).values():
                if isinstance(item, Task):
                    patch.setattr(item, "retry_delay_seconds", 0)

    def release(self, version: str) -> dict[str, Any]:
        """Run the runbook: the flow's own function and its tasks, without a flow run."""
        outcome: dict[str, Any] = release.fn(SERVICE, version)
        return outcome

    def rollback(self) -> dict[str, Any]:
        """Run the runbook of a rollback, likewise."""
        outcome: dict[str, Any] = rollback.fn(SERVICE)
        return outcome

    def abort(self, reason: str = "") -> dict[str, Any]:
        """Run the runbook of an abort, likewise."""
        outcome: dict[str, Any] = abort.fn(SERVICE, reason)
        return outcome

    def run_flow(self, version: str) -> dict[str, Any]:
        """Run the flow as a flow run of the server; costs a dozen requests more."""
        outcome: dict[str, Any] = release(SERVICE, version)
        return outcome

    def die_in_release(self, version: str) -> None:
        """Run the flow as a process that dies on its way, as the journal was told."""
        with pytest.raises(ProcessDied):
            self.release(version)

    def set_policy(self, **changes: Any) -> None:
        """Change the service's policy."""
        self.spec = replace(self.spec, policy=replace(self.spec.policy, **changes))

    def set_canary(self, *steps: RampStep, **limits: Any) -> None:
        """Let the service's releases rise in these steps."""
        policy = replace(
            self.spec.policy,
            strategy=Strategy.CANARY,
            ramp=replace(RampPolicy(requests_min=20), steps=steps, **limits),
        )
        self.spec = replace(self.spec, policy=policy)

    def set_autoscaling(self, kind: AutoscalerKind = AutoscalerKind.HPA, **range_: int) -> None:
        """Let the load decide how many pods a slot has, 2 to 8 unless told otherwise."""
        settings = autoscaling(kind, **range_)
        self.spec = replace(self.spec, autoscaling=settings, replicas=settings.min_replicas)

    def let_load_scale(self, users_need: int) -> None:
        """Let both slots be scaled whenever time passes, each by its share of the users.

        Args:
            users_need: pods for all of them; `controller.users_need` changes it.
        """
        self.controller.users_need = users_need

        def act() -> None:
            route = self.cluster.gateway_routes[SERVICE]
            for slot in Slot:
                for item in self.cluster.slot_deployments(SERVICE, slot):
                    share = replicas_for(route.percent(slot), self.controller.users_need)
                    self.controller.load[item.name] = share
            self.controller.sync()

        self.clock.while_waiting.append(act)

    def let_users_stream(self, *, per_s: int) -> None:
        """Let users ask whenever time passes; what they got is in the gateway's rows."""

        def ask() -> None:
            for _ in range(round(per_s * self.clock.waits_s[-1])):
                self.gateway.stream()

        self.clock.while_waiting.append(ask)

    def order(self, kind: OrderKind, **changes: Any) -> Order:
        """Have another process post an order; returns it."""
        about = {} if kind is OrderKind.RELEASE else {"release_id": self.record.release_id}
        made = Order(
            **{
                "order_id": f"{kind}-{self.cluster.number()}",
                "kind": kind,
                "version": self.record.version,
                "by": "pat@desk",
                "at_ns": self.clock.time_ns(),
                **about,
                **changes,
            }
        )
        self.cluster.orders[SERVICE][made.order_id] = order_to_storage(made)
        return made

    def ordered(self) -> list[str]:
        """Return the kinds of the orders that stand."""
        return [order.partition("-")[0] for order in sorted(self.cluster.orders[SERVICE])]

    def at_write(self, beginning: str, happening: Callable[[], object]) -> None:
        """Let something happen at the next write whose words begin so, once."""
        self.journal.at_write(beginning, happening)

    def die_at_write(self, beginning: str) -> None:
        """Let the process die after the next write whose words begin so."""

        def die() -> None:
            self.journal.die_after = len(self.journal.writes)

        self.at_write(beginning, die)

    def watcher(self) -> Watcher:
        """Return a watcher that notes what it says and which reconciles it starts."""

        def start(service: str, key: str) -> None:
            self.started.append(service)

        return Watcher(start=start, report=self.told.append)

    def watch(self, watcher: Watcher, *, seconds: int, die_after: int | None = None) -> None:
        """Let the watcher look once a second for so long, as a process of its own."""
        self.journal.next_process()
        self.journal.die_after = die_after
        for _ in range(seconds):
            watcher.look([self._connect(SERVICE, self._settings())])
            self.clock.advance(1.0)

    def reconcile(self) -> dict[str, str]:
        """Run the runbook of reconcile as a new process, when a dead one's lock has run out."""
        self.journal.next_process()
        self.clock.advance(_HEAD_START_S)
        found: dict[str, str] = reconcile.fn(SERVICE, here=True)
        return found

    def release_until_it_ends(self, version: str) -> dict[str, Any]:
        """Run the flow, and once more when a lost answer looked like another's write."""
        try:
            return self.release(version)
        except (ConflictError, TransientError):
            return self.release(version)

    def keeper_on_the_fake_clock(self, releases: Releases, lease: Lease, **_: Any) -> LockKeeper:
        """Stand in for `LockKeeper`: it renews only in doubt, and its time is the world's."""
        clock = self.clock
        return LockKeeper(
            releases, lease, renew_every_s=3600, monotonic=clock.monotonic, sleep=clock.sleep
        )

    def take_over(self) -> None:
        """Let another process take the service's lock, long after ours ran out."""
        self.clock.advance(60)
        found = self.releases.lock(SERVICE)
        self.releases.take(found, holder=holder_on("heir"), duration_s=3600)

    def assert_taken_back(self, version: str, *, code: str) -> None:
        """Check that a release of `version` onto version 1 in slot blue was taken back whole."""
        record = self.record
        assert (record.version, record.phase) == (version, Phase.ROLLED_BACK)
        assert (record.failure_code, record.intent) == (code, "")
        assert record.reason
        assert self.cluster.routes[SERVICE] == all_to(SERVICE, Slot.BLUE)
        assert self.cluster.gateway_routes[SERVICE] == all_to(SERVICE, Slot.BLUE)
        assert (self.replicas(Slot.BLUE), self.replicas(Slot.GREEN)) == (2, 0)
        assert self.cluster.pods_of(SERVICE, Slot.GREEN) == []
        assert self.cluster.ready_count(SERVICE, Slot.BLUE) == 2
        assert self.cluster.pods == {}
        assert self.alias == "1"
        assert self.cluster.leases[SERVICE].holder == ""
        assert self.cluster.violations == []

    def release_after_death(self, version: str) -> dict[str, Any]:
        """Run the flow as a new process, when the dead one's lock has run out."""
        self.journal.next_process()
        self.clock.advance(_HEAD_START_S)
        return self.release(version)

    @property
    def record(self) -> ReleaseRecord:
        """The record as stored."""
        return from_storage(self.cluster.records[SERVICE][0])

    @property
    def alias(self) -> str | None:
        """The version the registry's alias points at."""
        return self.registry.aliases.get((MODEL, "live"))

    def replicas(self, slot: Slot) -> int:
        """Return the replicas asked for in a slot; 0 when it has no Deployment."""
        return sum(item.replicas for item in self.cluster.slot_deployments(SERVICE, slot))

    def floors(self) -> dict[str, int]:
        """Return the least number of pods of each autoscaler, by its name."""
        every = self.autoscalers.find(self.spec.namespace, tuple(self._deployments()))
        return {found.name: found.min_replicas for found in every}

    def _deployments(self) -> list[str]:
        return [item.name for item in self.cluster.deployments.values()]

    def evidence(self) -> list[str]:
        """Return the names of the evidence of the record's release, whatever the store's state."""
        prefix = f"releases/{SERVICE}/{self.record.release_id}/"
        keys = [key for key in self.objects.objects if key.startswith(prefix)]
        return sorted({_without_number(key).removeprefix(prefix) for key in keys})

    def writes(self) -> list[str]:
        """Return what was written but for the stamps with which every run begins."""
        return [what for what in self.journal.writes if not what.startswith("stamp ")]

    def final_state(self) -> dict[str, Any]:
        """Return what must be equal however often the release died on its way."""
        record = asdict(self.record)
        record["history"] = [str(entry.phase) for entry in self.record.history]
        record["tested_pod_uids"] = len(self.record.tested_pod_uids)
        # The fence counts the processes, which is what differs.
        for moment in ("started_at_ns", "preview_token", "fence"):
            del record[moment]
        for verdict in record["verdicts"]:
            verdict["evidence_key"] = _without_number(verdict["evidence_key"])
        return {
            "record": record,
            "route": self.cluster.routes[SERVICE],
            "gateway": self.cluster.gateway_routes[SERVICE],
            "ready": {slot: self.cluster.ready_count(SERVICE, slot) for slot in Slot},
            "deployments": {
                item.name: (item.replicas, item.image, item.labels.get(RELEASE_LABEL))
                for item in self.cluster.deployments.values()
            },
            "floors": self.floors(),
            "test pods": list(self.cluster.pods),
            "aliases": self.registry.aliases,
            "images": sorted(self.images.images),
            "objects": sorted({_without_number(key) for key in self.objects.objects}),
            "lock holder": self.cluster.leases[SERVICE].holder,
            "violations": self.cluster.violations,
        }

    def _settings(self) -> Any:
        return from_environment(self.environment)

    def _connect(self, service: str, settings: Any) -> Ports:
        if service != SERVICE:
            raise InputError(f"no service {service}", code="service-unknown", hint="choose chat")
        return Ports(
            settings=settings,
            spec=self.spec,
            preflight=self.preflight,
            releases=self.releases,
            orders=self.orders,
            workloads=self.workloads,
            autoscalers=self.autoscalers,
            traffic=self.traffic,
            metrics=self.metrics,
            registry=self.registry,
            images=self.images,
            objects=self.objects,
        )

    def _endpoint(self, base_url: str, **_: Any) -> FakeEndpoint:
        return FakeEndpoint(self.model)

    def _benchmark(
        self, target: Target, plan: BenchmarkPlan, *, run_id: str, stable: Target | None = None
    ) -> RequestTable:
        rows = []
        if stable is None:
            self.model.benchmarks += 1
            for happening in self.model.while_benchmarked:
                happening()
            arms = [(target, plan)]
        else:
            arms = [
                (target, replace(plan, scenario=CANDIDATE)),
                (stable, replace(plan, scenario=STABLE)),
            ]
        for asked, arm in arms:
            for index in range(plan.requests):
                status = self.gateway.ask(dict(asked.headers)).status
                rows.append(self.model.row(f"{run_id}-{arm.scenario}-{index}", arm, status, index))
        return table(rows, ended_at_ns=self.clock.time_ns())

    def _ask_a_pod(self, target: Target, plan: BenchmarkPlan, *, run_id: str) -> RequestTable:
        """Answer as a pod that is asked at its own address."""
        ready = {
            f"http://{pod.address}:8000"
            for slot in Slot
            for pod in self.cluster.pods_of(SERVICE, slot)
            if pod.ready
        }
        self.model.warm_after -= 1
        status = 200 if target.url in ready and self.model.warm_after < 0 else 503
        rows = [self.model.row(f"{run_id}-{n}", plan, status, n) for n in range(4)]
        return table(rows, ended_at_ns=self.clock.time_ns())

    def _validate(self, table: RequestTable, plan: BenchmarkPlan) -> TableReport:
        invalid = self.model.invalid_tables > 0
        self.model.invalid_tables -= invalid
        problems = ("latency_ms: below 0",) if invalid else ()
        return TableReport(valid=not invalid, problems=problems, rules=1)


def _without_number(key: str) -> str:
    """Return the key of an evidence without the number of the lock it was written under."""
    return re.sub(r"/\d{6}/", "/", key)


def _load_nothing() -> None:
    """Import no validation library."""


def _show_nothing(**_: str) -> None:
    """Publish no artifact."""
