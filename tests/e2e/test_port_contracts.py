"""The contract suites of the ports, run by the real adapters on the sandbox."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from slipway.adapters.decorators import RetryingKubernetesApi
from slipway.adapters.kubernetes_preflight import KubernetesPreflight
from slipway.bootstrap.releases import Ports
from slipway.core.service import AutoscalerKind
from slipway.manifests.names import RELEASE_ACCOUNT
from tests.contract.port_suites.autoscalers import AutoscalersSubject, AutoscalersSuite
from tests.contract.port_suites.orders import OrdersSubject, OrdersSuite
from tests.contract.port_suites.preflight import PreflightSubject, PreflightSuite
from tests.contract.port_suites.releases import ReleasesSubject, ReleasesSuite
from tests.contract.port_suites.workloads import WorkloadsSubject, WorkloadsSuite
from tests.e2e.foreign_kinds import KEDA, install
from tests.e2e.support import Sandbox, World
from tests.examples import autoscaling

_MISSING = "never-installed"
_PATIENCE_S = 90.0
_numbers = count(1)


@pytest.fixture(scope="module")
def module_world(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(sandbox, tmp_path_factory.mktemp("contracts"))


@pytest.fixture(scope="module")
def image(module_world: World) -> str:
    """Reference by digest of an image whose server becomes ready."""
    ports = module_world.ports(module_world.given_service("contract-image"))
    behaviour = module_world.folder / "simulated.json"
    behaviour.write_text(json.dumps({"ttft_ms": 1, "gap_ms": 1, "answers": {"ping": "pong"}}))
    base = ports.images.resolve(ports.spec.server.image)
    files: Mapping[str, Path] = {"/model/simulated.json": behaviour}
    return ports.images.append(base, repository="models/contract", files=files, labels={}).reference


@pytest.fixture
def real_ports(module_world: World) -> Iterator[Ports]:
    """The ports of a service installed for one test alone; its workloads are deleted afterwards."""
    name = module_world.given_service(f"contract-{next(_numbers)}", replicas=2)
    yield module_world.ports(name)
    _delete_workloads(module_world, name)


def _delete_workloads(world: World, service: str) -> None:
    selector = f"slipway.dev/service={service}"
    deleted = world.sandbox.kubectl(
        *("-n", "serving", "delete", "deployment,pod,hpa", "-l", selector, "--wait=false")
    )
    assert deleted.returncode == 0, deleted.stderr


def _wait(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not look():
        assert time.monotonic() < deadline, f"not true within {_PATIENCE_S:.0f} s"
        time.sleep(0.1)


class TestKubernetesReleases(ReleasesSuite):
    """Records in ConfigMaps, locks in Leases."""

    @pytest.fixture
    def subject(self, real_ports: Ports) -> ReleasesSubject:
        return ReleasesSubject(
            releases=real_ports.releases,
            service=real_ports.spec.name,
            missing_service=_MISSING,
            pass_time=time.sleep,
        )


class TestKubernetesOrders(OrdersSuite):
    """Orders as keys of a ConfigMap."""

    @pytest.fixture
    def subject(self, module_world: World, real_ports: Ports) -> OrdersSubject:
        service = real_ports.spec.name

        def scribble(key: str, text: str) -> None:
            patch = json.dumps({"data": {key: text}})
            written = module_world.sandbox.kubectl(
                *("-n", "serving", "patch", "configmap", f"slipway-{service}-orders"),
                *("--type", "merge", "-p", patch),
            )
            assert written.returncode == 0, written.stderr

        return OrdersSubject(
            orders=real_ports.orders,
            service=service,
            missing_service=_MISSING,
            scribble=scribble,
        )


class TestKubernetesWorkloads(WorkloadsSuite):
    """Deployments and pods on a real API server, scheduler and kubelet."""

    @pytest.fixture
    def subject(self, real_ports: Ports, image: str) -> WorkloadsSubject:
        repository = image.partition("@")[0]
        return WorkloadsSubject(
            workloads=real_ports.workloads,
            spec=real_ports.spec,
            image=image,
            missing_image=f"{repository}@sha256:{'f' * 64}",
            wait=_wait,
        )


@pytest.fixture(scope="module")
def guests(sandbox: Sandbox) -> Iterator[str]:
    """A namespace with the account `limited`, which may do nothing."""
    for args in (("namespace", "guests"), ("-n", "guests", "serviceaccount", "limited")):
        made = sandbox.kubectl("create", *args)
        assert made.returncode == 0, made.stderr
    yield "guests"
    sandbox.kubectl("delete", "namespace", "guests", "--wait=false")


class TestKubernetesPreflight(PreflightSuite):
    """What a real API server shows to an administrator, and to the account of releases."""

    @pytest.fixture
    def subject(
        self, sandbox: Sandbox, real_ports: Ports, guests: str, tmp_path: Path
    ) -> PreflightSubject:
        def put(made: dict[str, Any]) -> None:
            done = sandbox.kubectl("apply", "-f", "-", stdin=json.dumps(made))
            assert done.returncode == 0, done.stderr

        service, whom = real_ports.spec.name, "--serviceaccount=guests:limited"
        role = f"--role={RELEASE_ACCOUNT}-{service}"
        scope = ("-n", "serving")
        sandbox.kubectl(*scope, "create", "rolebinding", f"limited-{service}", role, whom)
        asked = ("auth", "can-i", "get", f"lease/slipway-{service}")
        who = "--as=system:serviceaccount:guests:limited"
        _wait(lambda: sandbox.kubectl(*scope, *asked, who).returncode == 0)

        config = json.loads(sandbox.kubectl("config", "view", "--raw", "-o", "json").stdout)
        token = sandbox.kubectl("-n", "guests", "create", "token", "limited").stdout
        config["users"][0]["user"] = {"token": token.strip()}  # of the current context
        limited = tmp_path / "limited.kubeconfig"
        limited.write_text(json.dumps(config))
        return PreflightSubject(
            preflight=real_ports.preflight,
            limited=KubernetesPreflight(
                RetryingKubernetesApi(str(limited)), gateway_url=real_ports.settings.gateway_url
            ),
            put=put,
            namespace=guests,
            service=real_ports.spec.name,
        )


@pytest.fixture(scope="module")
def keda_crd(sandbox: Sandbox) -> None:
    """KEDA's custom resource, without its operator."""
    install(sandbox, KEDA)


class TestKubernetesAutoscalers(AutoscalersSuite):
    """HorizontalPodAutoscalers and KEDA's ScaledObjects on a real API server."""

    @pytest.fixture(params=list(AutoscalerKind))
    def subject(
        self, request: pytest.FixtureRequest, real_ports: Ports, keda_crd: None
    ) -> AutoscalersSubject:
        return AutoscalersSubject(
            autoscalers=real_ports.autoscalers,
            service=real_ports.spec.name,
            namespace=real_ports.spec.namespace,
            settings=autoscaling(request.param),
            wait=_wait,
        )
