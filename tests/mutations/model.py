"""A rule, the tests that hold it, and a fault that these tests must see."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]

RUNTIME = "slipway/sandbox/runtime"
NETWORK = "slipway/sandbox/network"
CONTAINERS = "tests/contract/test_runtime_containers.py"
LIFECYCLE = "tests/contract/test_runtime_lifecycle.py"
IMAGES = "tests/contract/test_runtime_images.py"
EGRESS = "tests/contract/test_network_egress.py"
RELAY = "tests/contract/test_network_relay.py"
PODS = "tests/e2e/test_pod_lifecycle.py"
CLUSTER = "tests/e2e/test_cluster_network.py"

SUITES = (CONTAINERS, LIFECYCLE, IMAGES, EGRESS, RELAY, PODS, CLUSTER)
"""Files whose every test belongs to a rule."""

_DOCS = "https://kubernetes.io/docs"
_TASKS = f"{_DOCS}/tasks"
SOURCES = {
    "api.proto": "https://github.com/kubernetes/cri-api/blob/v0.36.3/pkg/apis/runtime/v1/api.proto",
    "CRI logging": "https://github.com/kubernetes/design-proposals-archive/blob/main/node/kubelet-cri-logging.md",
    "KEP 4639": "https://github.com/kubernetes/enhancements/issues/4639",
    "image-spec": "https://github.com/opencontainers/image-spec/blob/v1.1.0/spec.md",
    "image layers": "https://github.com/opencontainers/image-spec/blob/v1.1.0/layer.md",
    "image config": "https://github.com/opencontainers/image-spec/blob/v1.1.0/config.md",
    "runtime-spec": "https://github.com/opencontainers/runtime-spec/blob/v1.2.0/config.md",
    "distribution-spec": "https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md",
    "command and arguments": f"{_TASKS}/inject-data-application/define-command-argument-container/",
    "pod lifecycle": f"{_DOCS}/concepts/workloads/pods/pod-lifecycle/",
    "probes": f"{_DOCS}/tasks/configure-pod-container/configure-liveness-readiness-startup-probes/",
    "init containers": f"{_DOCS}/concepts/workloads/pods/init-containers/",
    "hooks": f"{_DOCS}/concepts/containers/container-lifecycle-hooks/",
    "termination message": f"{_DOCS}/tasks/debug/debug-application/determine-reason-pod-failure/",
    "images": f"{_DOCS}/concepts/containers/images/",
    "volumes": f"{_DOCS}/concepts/storage/volumes/",
    "API access from a pod": f"{_DOCS}/tasks/run-application/access-api-from-pod/",
    "network model": f"{_DOCS}/concepts/services-networking/",
    "Service": f"{_DOCS}/concepts/services-networking/service/",
    "DNS": f"{_DOCS}/concepts/services-networking/dns-pod-service/",
    "EndpointSlice": f"{_DOCS}/concepts/services-networking/endpoint-slices/",
    "API server proxy": f"{_DOCS}/concepts/cluster-administration/proxies/",
    "admission webhooks": f"{_DOCS}/reference/access-authn-authz/extensible-admission-controllers/",
    "egress selection": f"{_DOCS}/tasks/extend-kubernetes/setup-konnectivity/",
    "RFC 9110": "https://www.rfc-editor.org/rfc/rfc9110",
    "RFC 9112": "https://www.rfc-editor.org/rfc/rfc9112",
    "xDS": "https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol",
    "gRPC": "https://grpc.io/docs/guides/wait-for-ready/",
    "pid_namespaces(7)": "https://man7.org/linux/man-pages/man7/pid_namespaces.7.html",
    "prctl(2)": "https://man7.org/linux/man-pages/man2/prctl.2.html",
    "the sandbox": "../design/0003-sandbox.md",
}
"""Where a rule is written, by the name that rules use; "the sandbox" where only we promise it."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """One replacement in one file.

    Args:
        file: below the project.
        find: text that stands there exactly once.
        replace: what stands there instead.
    """

    file: str
    find: str
    replace: str

    def applied(self, text: str) -> str:
        """Return the mutated text.

        Raises:
            ValueError: `find` does not stand there exactly once.
        """
        count = text.count(self.find)
        if count != 1:
            raise ValueError(f"{self.file}: {count} times instead of once: {self.find!r}")
        return text.replace(self.find, self.replace)


@dataclass(frozen=True, slots=True)
class Rule:
    """What is promised, by whom, and how it is held.

    Args:
        id: short name.
        says: the rule in our words.
        source: a key of SOURCES, and after a comma the place in it.
        suite: file of the tests.
        tests: functions of that file; one of them fails on the mutation.
        mutation: a fault that breaks the rule.
    """

    id: str
    says: str
    source: str
    suite: str
    tests: tuple[str, ...]
    mutation: Mutation

    @property
    def end_to_end(self) -> bool:
        """Whether its tests need a sandbox."""
        return self.suite.startswith("tests/e2e/")

    @property
    def nodes(self) -> tuple[str, ...]:
        """What pytest is asked for."""
        return tuple(f"{self.suite}::{name}" for name in self.tests)


def rule(
    id_: str, says: str, source: str, where: tuple[str, str], change: tuple[str, str, str]
) -> Rule:
    """Return a rule that one test holds.

    Args:
        id_: its name.
        says: the rule in our words.
        source: where it is written.
        where: file and name of the test.
        change: file, text, and what replaces it.
    """
    return Rule(id_, says, source, where[0], (where[1],), Mutation(*change))
