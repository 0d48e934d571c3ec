"""The sandbox as a whole: up, status, down, reset.

`up` converges: it starts what does not run, waits for what is starting, and starts again what
broke; the data stay. The state of a sandbox is its folder; the processes carry a marker in their
environment, so nothing depends on a supervisor that may have been killed.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from slipway.core.errors import PermanentError, SlipwayError, TransientError
from slipway.manifests.access_log import mesh_fields
from slipway.sandbox import machine
from slipway.sandbox.environment import flow_environment, watcher_environment
from slipway.sandbox.faults.client import forget_faults
from slipway.sandbox.home import SandboxHome, is_port_free
from slipway.sandbox.lifecycle_steps import Progress, Step, finish_start, part_error
from slipway.sandbox.nodes_down import forget_nodes_down, nodes_down
from slipway.sandbox.part import Part
from slipway.sandbox.supervisor_client import launch, only_one, running, stop
from slipway.sandbox.supervisor_process import (
    kill_processes_of,
    processes_of,
    running_homes,
    seen,
)
from slipway.sandbox.supervisor_status import SandboxStatus, read_status

__all__ = ["INSTALLS", "all_parts", "down", "part_error", "reset", "status", "up"]

INSTALLS: list[Callable[[SandboxHome], tuple[Step, ...]]] = []
"""What else is set up once the parts run: functions of (home) → steps."""

UNSUPERVISED = "unsupervised"
"""State of a sandbox whose supervisor was killed while parts still run; `up` recovers it."""


def up(home: SandboxHome, progress: Progress) -> SandboxStatus:
    """Start the sandbox, or finish a start, and return when everything is ready.

    Args:
        home: the sandbox; its folder is created.
        progress: gets one line for everything that is through.

    Raises:
        ConflictError: another command is at it.
        TransientError: a part was not ready in time, or a port is taken.
        PermanentError: a part failed (the message ends with its log), or the disk is full.
    """
    home.create()
    with only_one(home):
        try:
            return _up(home, progress)
        except (SlipwayError, OSError) as error:
            full = machine.explained(error, home.root)
            if full is not None:
                raise full from error
            raise


def _up(home: SandboxHome, progress: Progress) -> SandboxStatus:
    now = running(home)
    for node in sorted(nodes_down(home)):
        progress(f"{node} is down on purpose; slipway sandbox node revive {node}{home.option()}")
    if now and (now.broken or now.state in {"stopping", "stopped"}):
        names = ", ".join(part.name for part in now.broken) or "the sandbox was stopping: it"
        progress(f"{names} no longer runs: starting again, the data stay")
        stop(home)
        now = None
    if now and now.state in {"ready", "reduced"} and _is_set_up(home, now):
        progress(f"the sandbox in {home.root} is already running")
        return now
    if now is None:
        _start(home, progress)
    now = finish_start(home, _steps(home), progress)
    _set_up_file(home).write_text(json.dumps(asdict(now.supervisor)))
    return now


def status(home: SandboxHome) -> SandboxStatus | None:
    """Return how the sandbox is, None when nothing of it runs.

    Without a supervisor nobody watches: the parts that still live are then reported under the state
    `unsupervised`, the others as exited. A part that ended a moment ago is shown as restarting
    even before its supervisor wrote so.
    """
    now = running(home)
    if now is not None:
        return seen(now, supervised=True)
    if not processes_of(home):
        return None
    last = read_status(home)
    if last is None:
        return None
    return replace(seen(last, supervised=False), state=UNSUPERVISED)


def known() -> tuple[SandboxHome, ...]:
    """Return this user's sandboxes: those with a name, and those of other folders that run."""
    named = SandboxHome.all_of_user()
    return (*named, *(home for home in running_homes() if home not in named))


def losses(home: SandboxHome) -> tuple[str, ...]:
    """Return what the sandbox goes without on this machine, as its last start found it."""
    try:
        return tuple(json.loads(_losses_file(home).read_text()))
    except FileNotFoundError:
        return ()


def down(home: SandboxHome) -> int:
    """Stop the sandbox in order and kill what is left of it; the data stay.

    Returns:
        how many processes outlived the orderly stop (containers do) and were killed.

    Raises:
        ConflictError: another command is starting or stopping it.
        PermanentError: something survives.
    """
    if not home.run.is_dir():
        return 0
    with only_one(home):
        return _stop_all(home)


def reset(home: SandboxHome) -> None:
    """Stop the sandbox and delete everything it keeps.

    Only what a sandbox writes is deleted: a SLIPWAY_HOME that names some other folder loses nothing
    else.

    Raises:
        ConflictError: another command is starting or stopping it.
        PermanentError: something survives or cannot be deleted.
    """
    if not home.run.is_dir():
        return
    with only_one(home):
        _stop_all(home)
        for folder in (*(home.root / name for name in ("data", "config")), *_folders(home)):
            if folder.exists():
                shutil.rmtree(folder, onerror=_delete_read_only)
        for name in ("kubeconfig", "ports.json", "slices.json", "command.lock"):
            (home.root / name).unlink(missing_ok=True)
    if not any(home.root.iterdir()):
        home.root.rmdir()


def all_parts(home: SandboxHome) -> tuple[Part, ...]:
    """Return every part of the sandbox; what the supervisor runs."""
    from slipway.sandbox import build
    from slipway.sandbox.parts import (
        faults,
        gateway,
        istiod,
        kubernetes,
        mlflow,
        network,
        node,
        prefect,
        s3,
        watcher,
    )

    binary = build.control_plane(_silent)
    return (
        *kubernetes.parts(home, binary),
        *istiod.parts(home, binary),
        *node.parts(home),
        *network.parts(home),
        *faults.parts(home),
        *gateway.parts(home),
        *s3.parts(home),
        *mlflow.parts(home),
        *prefect.parts(home, flow_environment=flow_environment(home)),
        *watcher.parts(home, environment=watcher_environment(home)),
    )


def _start(home: SandboxHome, progress: Progress) -> None:
    from slipway.sandbox import build, slices
    from slipway.sandbox.parts.kubernetes import NODES

    machine.require_space(home.root)
    lost = machine.losses(home.run / "probe")
    _losses_file(home).write_text(json.dumps(lost))
    for loss in lost:
        progress(f"note: {loss}")
    binary = build.control_plane(progress)
    left = kill_processes_of(home)
    if left:
        progress(f"ended {left} processes that an earlier run had left")
    with slices.taken(home, tuple(node.name for node in NODES)):
        progress("writing keys and settings, copying empty databases (made at the first start)")
        _prepare(home, binary)
        _refuse_taken_ports(home)
        launch(home)
    progress("supervisor started")


def _prepare(home: SandboxHome, binary: Path) -> None:
    """Write what the parts read at their start."""
    from slipway.sandbox.parts import (
        faults,
        gateway,
        istiod,
        kubernetes,
        mlflow,
        network,
        node,
        prefect,
        s3,
    )

    kubernetes.prepare(home, binary)
    istiod.prepare(home, mesh_fields(gateway.access_log(home)))
    for module in (node, network, faults, gateway, s3, mlflow, prefect):
        prepare = getattr(module, "prepare", None)
        if prepare is not None:
            prepare(home)


def _steps(home: SandboxHome) -> tuple[Step, ...]:
    from slipway.sandbox import build, cluster, images, volumes
    from slipway.sandbox.parts import gateway, mlflow, prefect, s3

    crds = build.crds(build.control_plane(_silent))
    steps = (
        Step("cluster", lambda: cluster.set_up(home, crds), needs=("apiserver", "faults")),
        Step("gateway", lambda: gateway.set_up(home), needs=("cluster", "gateway")),
        Step("volumes", lambda: volumes.set_up(home), needs=("cluster",)),
        Step("base images", lambda: images.push_bases(home), needs=("registry", "faults")),
        Step("buckets", lambda: s3.set_up(home), needs=("s3", "faults")),
        Step("model registry", lambda: mlflow.set_up(home), needs=("mlflow", "buckets")),
        Step("flows", lambda: prefect.set_up(home), needs=("prefect-server",)),
    )
    return (*steps, *(step for install in INSTALLS for step in install(home)))


def _stop_all(home: SandboxHome) -> int:
    from slipway.sandbox.parts import s3

    killed = stop(home)
    s3.clear(home)
    forget_nodes_down(home)
    _set_up_file(home).unlink(missing_ok=True)
    forget_faults(home.run)
    for path in home.run.glob("*.sock"):
        path.unlink(missing_ok=True)
    mounts = _mounts_below(home.root)
    if mounts:
        raise PermanentError(
            f"still mounted below {home.root}: {', '.join(mounts)}",
            code="mount-left",
            hint="umount them; containers mount only in namespaces of their own",
        )
    return killed


def _mounts_below(root: Path) -> tuple[str, ...]:
    """Return the mount points below a folder, as this process sees them (proc(5), mountinfo)."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = (line.split()[4].replace("\\040", " ") for line in lines)
    return tuple(point for point in points if point.startswith(f"{root}/"))


def _is_set_up(home: SandboxHome, now: SandboxStatus) -> bool:
    """Whether the steps went through under this very supervisor, not only its parts."""
    try:
        return bool(json.loads(_set_up_file(home).read_text()) == asdict(now.supervisor))
    except (FileNotFoundError, ValueError):
        return False


def _losses_file(home: SandboxHome) -> Path:
    return home.run / "losses.json"


def _set_up_file(home: SandboxHome) -> Path:
    return home.run / "set-up.json"


def _folders(home: SandboxHome) -> tuple[Path, ...]:
    return (home.secrets, home.pki, home.logs, home.run, home.temporary)


def _refuse_taken_ports(home: SandboxHome) -> None:
    """Say which port is taken, rather than let a part fail with its own words for it.

    Raises:
        TransientError: a remembered port is held by a process of somebody else.
    """
    for name, port in home.remembered_ports().items():
        if not is_port_free(port):
            raise TransientError(
                f"port {port} of the sandbox ({name}) is taken by another process",
                code="port-taken",
                hint=f"see who holds it (ss -ltnp 'sport = :{port}'); if it stays, "
                f"`slipway sandbox reset{home.option()}` chooses new ports and deletes the data",
            )


def _delete_read_only(function: Callable[..., object], path: str, _error: object) -> None:
    """Open a read-only folder of an unpacked image and delete again what was refused."""
    parent = Path(path).parent
    parent.chmod(parent.stat().st_mode | stat.S_IRWXU)
    if Path(path).is_dir():
        os.chmod(path, stat.S_IRWXU)  # noqa: PTH101  # the path may be a link that must not be followed
    function(path)


def _silent(_line: str) -> None:
    return
