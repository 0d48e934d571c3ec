"""What each model server needs: command line, environment, ports, volumes, health paths.

Sources: docs.vllm.ai (serve arguments, environment variables); triton-inference-server/server:
src/command_line_parser.cc and docs/protocol (HTTP 8000, metrics 8002, `/v2/health/ready`; Triton's
OpenAI frontend is another process and is not used here); the flags of `simulated` and `llama_cpp`
are those of `slipway/sandbox/servers`.
"""

from __future__ import annotations

from dataclasses import dataclass

from slipway.core.service import ServerKind, ServiceSpec

MODEL_FOLDER = "/model"
"""Where the model's files are inside every server: the image's top layer, or the volume."""

SCRATCH_FOLDER = "/tmp"  # noqa: S108  # inside the container, a volume of the pod's own
"""The only folder that a server may write to."""

TRITON_METRICS_PORT = 8002

_ANY_ADDRESS = "0.0.0.0"  # noqa: S104  # all addresses of the pod, which has a network of its own

DISTROLESS_USER = 65532
"""The customary `nonroot` user; no image of ours has files that only another user may read."""

TRITON_USER = 1000
"""User `triton-server` of NVIDIA's image (triton-inference-server/server:build.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerContract:
    """How one kind of server is run.

    Args:
        command: replaces the image's entry point; empty keeps it.
        args: command line; `$(POD_IP)` is filled in by the kubelet.
        environment: further variables, name → value.
        ports: name → container port; `http` is always there.
        live_path: HTTP path that answers 200 while the process is worth keeping.
        user: numeric user the container runs as, never 0.
        shared_memory: whether it needs a memory-backed `/dev/shm`.
    """

    command: tuple[str, ...]
    args: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    ports: tuple[tuple[str, int], ...]
    live_path: str
    user: int = DISTROLESS_USER
    shared_memory: bool = False


def health_path(kind: ServerKind) -> str:
    """Return the path that answers 200 once the model can serve, unless the service file says."""
    return "/v2/health/ready" if kind is ServerKind.TRITON else "/health"


def contract(spec: ServiceSpec) -> ServerContract:
    """Return how the service's server is run; its own extra arguments come last."""
    if spec.server.kind is ServerKind.VLLM:
        return _vllm(spec)
    if spec.server.kind is ServerKind.TRITON:
        return _triton(spec)
    return _small(spec)


def _small(spec: ServiceSpec) -> ServerContract:
    # The image's own entry point starts the server. It must listen on the pod's address only: in
    # the sandbox many pods share one machine, and each has its own loopback address.
    return ServerContract(
        command=(),
        args=(
            *("--host", "$(POD_IP)", "--port", str(spec.server.port)),
            *("--model-dir", MODEL_FOLDER, "--model-name", spec.model),
            *spec.server.args,
        ),
        environment=(),
        ports=(("http", spec.server.port),),
        live_path=spec.probes.path,
    )


def _vllm(spec: ServiceSpec) -> ServerContract:
    # The root filesystem is read-only: caches of vLLM, Triton kernels and torch go below /tmp.
    return ServerContract(
        command=(),
        args=(
            *("--model", MODEL_FOLDER, "--served-model-name", spec.model),
            *("--host", _ANY_ADDRESS, "--port", str(spec.server.port)),
            *spec.server.args,
        ),
        environment=(
            ("HOME", SCRATCH_FOLDER),
            ("HF_HUB_OFFLINE", "1"),
            ("VLLM_CACHE_ROOT", f"{SCRATCH_FOLDER}/vllm"),
            ("VLLM_NO_USAGE_STATS", "1"),
        ),
        ports=(("http", spec.server.port),),
        live_path=spec.probes.path,
        shared_memory=True,
    )


def _triton(spec: ServiceSpec) -> ServerContract:
    # Strict readiness is the default: /v2/health/ready answers 200 only when every model is loaded.
    # `exit-timeout-secs` is how long Triton itself lets requests finish after SIGTERM.
    return ServerContract(
        command=("tritonserver",),
        args=(
            f"--model-repository={MODEL_FOLDER}",
            "--model-control-mode=none",
            f"--http-port={spec.server.port}",
            "--allow-grpc=false",
            f"--metrics-port={TRITON_METRICS_PORT}",
            "--metrics-config=histogram_latencies=true",
            f"--exit-timeout-secs={int(spec.policy.drain_timeout_s)}",
            *spec.server.args,
        ),
        environment=(("HOME", SCRATCH_FOLDER),),
        ports=(("http", spec.server.port), ("metrics", TRITON_METRICS_PORT)),
        live_path="/v2/health/live",
        user=TRITON_USER,
        shared_memory=True,
    )
