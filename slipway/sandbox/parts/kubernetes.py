"""The Kubernetes of the sandbox: etcd, API server, controllers, scheduler, kubelets, a registry.

All of them are the upstream programs of one binary (`slipway.sandbox.build`). What differs from a
production cluster is what one machine without root forces: loopback addresses, no leader election,
no cgroups.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from slipway.core.errors import InputError
from slipway.sandbox import audit, pki
from slipway.sandbox.home import SandboxHome
from slipway.sandbox.network.addresses import kubelet_address, shown_address
from slipway.sandbox.part import HttpReady, Part

GPUS_PER_NODE = 4
_LOCAL = "127.0.0.1"
# A kubelet serves `ROOT/data/kubelet-node-a/pod-resources/kubelet.sock`, and sun_path ends at 107.
_LONGEST_ROOT = 107 - len("/data/kubelet-node-a/pod-resources/kubelet.sock")


@dataclass(frozen=True, slots=True)
class Node:
    """One simulated machine.

    Args:
        name: of the Node object.
        zone: the topology zone it says it is in.
    """

    name: str
    zone: str


NODES = (Node("node-a", "zone-a"), Node("node-b", "zone-b"))


def prepare(home: SandboxHome, binary: Path) -> None:
    """Write keys and configuration files; running twice equals once.

    Args:
        home: the sandbox, its folders created.
        binary: the control plane.

    Raises:
        InputError: the folder of the sandbox is too long for a kubelet's socket.
        PermanentError: the keys could not be written.
    """
    if len(str(home.root)) > _LONGEST_ROOT:
        raise InputError(
            f"the sandbox folder {home.root} is longer than {_LONGEST_ROOT} characters,"
            " too long for a kubelet's socket",
            code="state-path-too-long",
            hint="choose a shorter --name, or set SLIPWAY_HOME to a shorter folder, for example "
            "/tmp/slipway",
        )
    pki.prepare(home, binary)
    audit.prepare(home)
    pki.write_private(_egress_file(home), yaml.safe_dump(_egress_selection(home)))
    pki.write_private(_registry_file(home), yaml.safe_dump(_registry_settings(home)))


def parts(home: SandboxHome, binary: Path) -> tuple[Part, ...]:
    """Return etcd, apiserver, controller-manager, scheduler, registry and one kubelet a node."""
    kubelets = tuple(_kubelet(home, binary, node) for node in NODES)
    return (
        _etcd(home, binary),
        _apiserver(home, binary),
        _controller_manager(home, binary),
        _scheduler(home, binary),
        _registry(home, binary),
        *kubelets,
    )


def _etcd(home: SandboxHome, binary: Path) -> Part:
    client = f"https://{_LOCAL}:{home.port('etcd-client')}"
    peer = f"http://{_LOCAL}:{home.port('etcd-peer')}"
    metrics = f"http://{_LOCAL}:{home.port('etcd-metrics')}"
    command = (
        str(binary),
        "etcd",
        "--name=sandbox",
        f"--data-dir={home.data('etcd')}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=sandbox={peer}",
        f"--listen-metrics-urls={metrics}",
        # Secrets lie in etcd: only the API server's certificate opens it.
        "--client-cert-auth",
        f"--trusted-ca-file={home.pki / 'ca.crt'}",
        f"--cert-file={home.pki / 'etcd.crt'}",
        f"--key-file={home.pki / 'etcd.key'}",
        # Its client shows the server's certificate, which is not one of a client.
        "--enable-grpc-gateway=false",
        "--auto-compaction-retention=10m",
        # A single member waits this long before it elects itself; the default is 1,000.
        "--election-timeout=500",
        "--log-level=warn",
    )
    # No --unsafe-no-fsync: what was written survives kill -9 of everything.
    return Part(
        name="etcd",
        command=command,
        ready=HttpReady(f"{metrics}/health"),
        # An API server that lost its etcd ignores SIGTERM for minutes and keeps its port.
        stop_after=("apiserver",),
    )


def _apiserver(home: SandboxHome, binary: Path) -> Part:
    port = home.port("apiserver-inner")
    command = (
        str(binary),
        "apiserver",
        f"--etcd-servers=https://{_LOCAL}:{home.port('etcd-client')}",
        f"--etcd-cafile={home.pki / 'ca.crt'}",
        f"--etcd-certfile={home.pki / 'etcd-client.crt'}",
        f"--etcd-keyfile={home.pki / 'etcd-client.key'}",
        f"--bind-address={_LOCAL}",
        f"--secure-port={port}",
        f"--tls-cert-file={home.pki / 'apiserver.crt'}",
        f"--tls-private-key-file={home.pki / 'apiserver.key'}",
        # A loopback address is refused here, and nothing dials it: no endpoints are written.
        "--advertise-address=10.0.0.1",
        "--endpoint-reconciler-type=none",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-signing-key-file={home.pki / 'service-account.key'}",
        f"--service-account-key-file={home.pki / 'service-account.pub'}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--token-auth-file={pki.tokens_path(home)}",
        f"--egress-selector-config-file={_egress_file(home)}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-certificate-authority={home.pki / 'ca.crt'}",
        f"--kubelet-client-certificate={home.pki / 'kubelet-client.crt'}",
        f"--kubelet-client-key={home.pki / 'kubelet-client.key'}",
        "--allow-privileged=true",
        "--profiling=false",
        *audit.flags(home),
    )
    return Part(
        name="apiserver",
        command=command,
        ready=HttpReady(f"https://{_LOCAL}:{port}/readyz", verify=home.pki / "ca.crt"),
        after=("etcd",),
        addresses={"Kubernetes API": f"https://{_LOCAL}:{home.port('apiserver')}"},
        stop_grace_s=10.0,
    )


def _controller_manager(home: SandboxHome, binary: Path) -> Part:
    command = (
        *_controller(home, binary, "controller-manager", pki.CONTROLLER_MANAGER),
        f"--root-ca-file={home.pki / 'ca.crt'}",
        f"--service-account-private-key-file={home.pki / 'service-account.key'}",
        "--use-service-account-credentials=true",
        # The default is below /usr and is made at the start.
        f"--flex-volume-plugin-dir={home.data('controller-manager') / 'flex'}",
        # Autoscalers look every 15 s by default; who tries them out need not wait for that.
        "--horizontal-pod-autoscaler-sync-period=2s",
        # The first start makes many objects at once; the default of 20 a second delays it.
        "--kube-api-qps=100",
        "--kube-api-burst=200",
    )
    return _waits_for_api(home, "controller-manager", command)


def _scheduler(home: SandboxHome, binary: Path) -> Part:
    return _waits_for_api(home, "scheduler", _controller(home, binary, "scheduler", pki.SCHEDULER))


def _controller(home: SandboxHome, binary: Path, name: str, user: pki.User) -> tuple[str, ...]:
    kubeconfig = pki.kubeconfig_path(home, user)
    return (
        str(binary),
        name,
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        "--authentication-skip-lookup",
        "--leader-elect=false",
        f"--bind-address={_LOCAL}",
        f"--secure-port={home.port(name)}",
        f"--tls-cert-file={home.pki / name}.crt",
        f"--tls-private-key-file={home.pki / name}.key",
        "--profiling=false",
    )


def _waits_for_api(home: SandboxHome, name: str, command: tuple[str, ...]) -> Part:
    url = f"https://{_LOCAL}:{home.port(name)}/healthz"
    return Part(
        name=name,
        command=command,
        ready=HttpReady(url, verify=home.pki / "ca.crt"),
        after=("apiserver",),
    )


def _kubelet(home: SandboxHome, binary: Path, node: Node) -> Part:
    name = f"kubelet-{node.name}"
    health = home.port(f"{name}-health")
    address = kubelet_address(home.slice_of(node.name))
    command = (
        str(binary),
        "kubelet",
        f"--node-name={node.name}",
        f"--zone={node.zone}",
        f"--address={address}",
        f"--node-address={shown_address(address)}",
        f"--kubeconfig={pki.kubeconfig_path(home, pki.kubelet_user(node.name))}",
        f"--cri={home.run / f'cri-{node.name}.sock'}",
        f"--root-dir={home.data(name)}",
        f"--pod-log-dir={home.data(name) / 'pod-logs'}",
        f"--port={home.port(name)}",
        f"--healthz-port={health}",
        f"--gpus={GPUS_PER_NODE}",
        f"--tls-cert={home.pki / name}.crt",
        f"--tls-key={home.pki / name}.key",
        f"--client-ca={home.pki / 'ca.crt'}",
    )
    return Part(
        name=name,
        command=command,
        ready=HttpReady(f"http://{_LOCAL}:{health}/healthz"),
        after=("apiserver", f"cri-{node.name}"),
        node=node.name,
    )


def _registry(home: SandboxHome, binary: Path) -> Part:
    url = f"http://{_LOCAL}:{home.port('registry')}"
    return Part(
        name="registry",
        command=(str(binary), "registry", "serve", str(_registry_file(home))),
        ready=HttpReady(f"http://{_LOCAL}:{home.port('registry-inner')}/v2/"),
        # Upstream sends traces to port 4318 unless told not to.
        environment={"OTEL_TRACES_EXPORTER": "none"},
        addresses={"image registry": url},
    )


def _egress_file(home: SandboxHome) -> Path:
    return home.config("apiserver") / "egress.yaml"


def _registry_file(home: SandboxHome) -> Path:
    return home.config("registry") / "config.yaml"


def _egress_selection(home: SandboxHome) -> dict[str, object]:
    transport = {"uds": {"udsName": str(home.run / "egress.sock")}}
    cluster = {
        "name": "cluster",
        "connection": {"proxyProtocol": "HTTPConnect", "transport": transport},
    }
    return {
        "apiVersion": "apiserver.k8s.io/v1beta1",
        "kind": "EgressSelectorConfiguration",
        "egressSelections": [cluster],
    }


def _registry_settings(home: SandboxHome) -> dict[str, object]:
    return {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(home.data("registry"))},
            "delete": {"enabled": True},
            "maintenance": {"uploadpurging": {"enabled": False}},
        },
        "http": {
            "addr": f"{_LOCAL}:{home.port('registry-inner')}",
            "relativeurls": True,
            "secret": home.secret("registry"),
        },
    }
