"""Prove a backup: its files, restored, make the model server answer as it did."""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slipway.adapters.service_file import load_services
from slipway.backup.finding import newest_of_version
from slipway.backup.shapes import check_shapes
from slipway.bootstrap.backups import Opened
from slipway.bootstrap.releases import Ports
from slipway.core.backup.drills import Drill
from slipway.core.backup.names import ManifestName
from slipway.core.backup.ulid import ulid
from slipway.core.errors import InputError, PermanentError, SlipwayError
from slipway.core.release.record import ReleaseRecord, SlotRecord
from slipway.core.rollout import RolloutPatience, image_failure
from slipway.core.verdicts import Verdict
from slipway.evaluation.endpoint import HttpChatEndpoint
from slipway.evaluation.integrity import check_integrity, weights_digest
from slipway.evaluation.quality import EvaluationResult, evaluate
from slipway.manifests.names import drill_pod_name
from slipway.manifests.servers import MODEL_FOLDER
from slipway.manifests.workload import drill_pod
from slipway.ports.models import Image, ModelVersion
from tasks.backup_reports import tell, tell_event
from tasks.restores import restored
from tasks.session import connected, installation
from tasks.stage import repeatable
from tasks.waiting import wait_until

_SCRATCH = "slipway-drill-"
_LEFT_S = 86_400.0
"""A drill takes minutes; a scratch folder that is a day old belongs to one that was killed."""


@dataclass(frozen=True)
class _Proof:
    """What a drill found out."""

    image: Image
    result: EvaluationResult
    restored_s: float


def services_with_users(service: str) -> list[str]:
    """Return the one service named, or all that have a live version.

    Raises:
        InputError: `nothing-live`, there is none.
    """
    if service:
        return [service]
    names = [
        name
        for name in sorted(load_services(installation().services))
        if (stored := connected(name).releases.load(name)) and stored.record.live_slot
    ]
    if not names:
        raise InputError(
            "no service has a live version",
            code="nothing-live",
            hint="release one first: a drill restores what serves",
        )
    return names


@repeatable("restore drill", run_name="{service}")
def drill_service(backups: Opened, service: str) -> dict[str, Any]:
    """Restore the live version's newest backup, start its server on it and ask the golden prompts.

    Nothing of the service is touched: the pod is outside every slot, and goes at the end.

    Raises:
        InputError: `nothing-live`, the service was never released; `version-unknown`, no backup.
        PermanentError: `drill-failed`, or what was wrong with the files.
    """
    ports = connected(service)
    record, live = _live_record(ports)
    version = live.version
    name = newest_of_version(backups.repository, record.model, version)
    begun_ns, begun_s = time.time_ns(), time.monotonic()
    _clear_scratch()
    try:
        known = ports.registry.version(record.model, version)
        with tempfile.TemporaryDirectory(prefix=_SCRATCH) as folder:
            proof = _prove(ports, backups, known, name=name, folder=Path(folder))
        passed, said = proof.result.verdict is Verdict.PASS, _said(proof)
    except SlipwayError as error:
        _note(backups, Drill(str(name), begun_ns, passed=False, said=str(error.message)))
        tell_event("model.backup.drill.failed", record.model, {"backup": str(name)})
        raise
    drill = Drill(
        str(name),
        begun_ns,
        passed=passed,
        said=said,
        restored_s=round(proof.restored_s, 3),
        recovery_s=round(time.monotonic() - begun_s, 3),
        image_as_released=proof.image.reference == live.image,
        answers_as_tested=_same_answers(ports, record, live, proof.result),
    )
    _note(backups, drill)
    tell(f"drill {service}: {said}; recovered in {drill.recovery_s:.1f} s")
    event = "model.backup.drill.passed" if passed else "model.backup.drill.failed"
    tell_event(event, record.model, asdict(drill))
    if not passed:
        raise PermanentError(
            f"the model restored from {name} does not answer as it should: {said}",
            code="drill-failed",
            hint="see the drill's record; take a new backup and drill again",
        )
    return asdict(drill)


def _clear_scratch() -> None:
    """Remove what killed drills left: each a whole model."""
    for path in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        with suppress(FileNotFoundError, PermissionError):  # gone, or somebody else's
            if time.time() - path.stat().st_mtime > _LEFT_S:
                shutil.rmtree(path)


def _prove(
    ports: Ports, backups: Opened, known: ModelVersion, *, name: ManifestName, folder: Path
) -> _Proof:
    begun_s = time.monotonic()
    restored(backups, name, folder)
    restored_s = time.monotonic() - begun_s
    check_integrity(known, folder)
    check_shapes(folder)
    image = ports.images.append(
        ports.images.resolve(ports.spec.server.image),
        repository=f"models/{known.model}",
        files={f"{MODEL_FOLDER}/{item.path}": folder / item.path for item in known.files},
        labels={"slipway.dev/weights": weights_digest(known)},
    )
    return _Proof(image, _asked(ports, image), restored_s)


def _asked(ports: Ports, image: Image) -> EvaluationResult:
    """Start the model server in a pod of its own and ask it the golden prompts."""
    spec = ports.spec
    name = drill_pod_name(spec.name)
    left = ports.workloads.pod(spec.namespace, name)
    if left is not None:
        ports.workloads.delete("Pod", spec.namespace, name, uid=left.uid)
    pod = ports.workloads.apply(drill_pod(spec, image=image.reference))
    try:
        address = _await_pod(ports, name)
        endpoint = HttpChatEndpoint(
            f"http://{address}:{spec.server.port}", proxy=ports.settings.cluster_proxy
        )
        return evaluate(endpoint, spec.policy.quality, model=spec.model)
    finally:
        ports.workloads.delete("Pod", spec.namespace, name, uid=pod.uid, wait=False)


def _await_pod(ports: Ports, name: str) -> str:
    spec, address = ports.spec, list[str]()

    def look() -> str | None:
        pod = ports.workloads.pod(spec.namespace, name)
        if pod is None:
            return f"pod {name} does not exist yet"
        if pod.ended or image_failure(pod, RolloutPatience()):
            raise PermanentError(
                f"the model server does not start on the restored files (pod {name}, "
                f"exit code {pod.last_exit_code})",
                code="drill-failed",
                hint=f"kubectl -n {spec.namespace} describe pod {name}",
            )
        if pod.unschedulable_s is not None:
            return f"no node fits: {pod.unschedulable_message}"
        if not pod.ready or pod.address is None:
            return f"pod {name} loads the model"
        address.append(pod.address)
        return None

    wait_until(
        look, timeout_s=spec.policy.ready_timeout_s, what=f"pod {name} was ready", report=tell
    )
    return address[0]


def _live_record(ports: Ports) -> tuple[ReleaseRecord, SlotRecord]:
    stored = ports.releases.load(ports.spec.name)
    slot = None if stored is None else stored.record.live_slot
    if stored is None or slot is None:
        raise InputError(
            f"no version of service {ports.spec.name} is live",
            code="nothing-live",
            hint="release one first: a drill restores what serves",
        )
    return stored.record, stored.record.slot(slot)


def _said(proof: _Proof) -> str:
    return "; ".join(item.reason for item in proof.result.results)


def _same_answers(
    ports: Ports, record: ReleaseRecord, live: SlotRecord, result: EvaluationResult
) -> str:
    """Compare with the answers that the live version gave when it was tested, if it was."""
    tested = next((item for item in record.verdicts if item.stage == "test"), None)
    if tested is None or live.version != record.version:
        return ""
    try:
        before = json.loads(ports.objects.get(tested.evidence_key))["rows"]
    except PermanentError as error:
        if error.code != "object-missing":
            raise
        return ""
    answers = {row["prompt"]: row["answer"] for row in before}
    same = sum(answers.get(row.prompt) == row.answer for row in result.rows)
    return f"{same} of {len(result.rows)}"


def _note(backups: Opened, drill: Drill) -> None:
    backups.repository.note_drill(ulid(drill.at_ns, secrets.randbits(80)), drill)
