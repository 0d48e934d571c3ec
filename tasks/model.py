"""The model version: is it what it claims to be, and does it answer well?"""

from __future__ import annotations

import tempfile
import threading
from dataclasses import replace
from pathlib import Path

from slipway.bench.validation import preload
from slipway.core.errors import PermanentError
from slipway.core.release.promotion import image_mismatch
from slipway.core.release.record import Digests, Phase, StageVerdict
from slipway.core.release.stages import INTEGRITY, TEST
from slipway.core.report import amount_of_files
from slipway.core.rollout import PodObservation, RolloutPatience, image_failure
from slipway.core.verdicts import Verdict
from slipway.evaluation.endpoint import HttpChatEndpoint
from slipway.evaluation.integrity import check_integrity, weights_digest
from slipway.evaluation.quality import evaluate
from slipway.manifests.names import test_pod_name
from slipway.manifests.workload import test_pod
from slipway.ports.models import ModelVersion
from tasks.session import ReleaseSession
from tasks.stage import release_stage
from tasks.waiting import wait_until
from tasks.weights import require_place, require_placed, weights_fetch

_LOG_LINES = 5


@release_stage(INTEGRITY)
def verify_artifacts(session: ReleaseSession) -> str:
    """Check every file of the version against its checksum, and that the set is safe to load."""
    version = registered_version(session)
    require_place(session, version)
    with tempfile.TemporaryDirectory(prefix="slipway-") as folder:
        files = session.ports.registry.fetch(version, Path(folder))
        check_integrity(version, files)
    digests = replace(
        session.record.digests,
        weights=weights_digest(version),
        config=version.config_sha256,
        chat_template=version.chat_template_sha256,
    )
    _require_same(session, digests)
    session.save(replace(session.record, digests=digests))
    size = sum(file.size_bytes for file in version.files)
    return f"{amount_of_files(len(version.files), size)}, checksums right"


@release_stage(TEST)
def test_model(session: ReleaseSession) -> str:
    """Load the version in its server, from the image to be released, and ask the golden prompts."""
    spec, record, workloads = session.spec, session.record, session.ports.workloads
    # Importing the validation library takes seconds: done while the pods load, needed afterwards.
    threading.Thread(target=preload, name="preload-validation", daemon=True).start()
    image = session.ports.images.resolve(_image(session))
    name = test_pod_name(spec.name)
    session.intend(f"test pod {name}")
    session.remove_pod(name)
    manifest = test_pod(
        spec,
        image=image.reference,
        release_id=record.release_id,
        fetch=weights_fetch(session),
    )
    pod = workloads.apply(manifest)
    try:
        address = _await_pod(session, name)
        endpoint = HttpChatEndpoint(
            f"http://{address}:{session.spec.server.port}",
            proxy=session.ports.settings.cluster_proxy,
        )
        result = evaluate(endpoint, spec.policy.quality, model=spec.model)
    finally:
        workloads.delete("Pod", spec.namespace, name, uid=pod.uid, wait=False)
    digests = session.record.digests
    seen = {"image": digests.image, "weights": digests.weights, **result.to_json()}
    key = session.put_evidence("model-test.json", seen, "application/json")
    reasons = tuple(item.reason for item in result.results)
    session.judge(
        StageVerdict(stage="test", verdict=result.verdict, reasons=reasons, evidence_key=key)
    )
    if result.verdict is not Verdict.PASS:
        raise PermanentError(
            f"version {record.version} of {record.model} failed its tests: {'; '.join(reasons)}",
            code="model-test-failed",
            hint=f"the answers are in the evidence: {key}",
        )
    session.advance(Phase.TESTED, "; ".join(reasons))
    return "; ".join(reasons)


def registered_version(session: ReleaseSession) -> ModelVersion:
    """Return the version under release as the registry states it."""
    return session.ports.registry.version(session.record.model, session.record.version)


def _image(session: ReleaseSession) -> str:
    return session.record.slot(session.record.candidate).image


def _require_same(session: ReleaseSession, found: Digests) -> None:
    known = session.record.digests
    if known.weights and known != found:
        raise PermanentError(
            f"version {session.record.version} of {session.record.model} changed in the registry "
            f"during its release: weights {known.weights[:12]} became {found.weights[:12]}",
            code="version-changed",
            hint="register the change as a new version and release that",
        )


def _does_not_load(session: ReleaseSession, pod: str, exit_code: int | None) -> PermanentError:
    spec, record = session.spec, session.record
    tail = session.ports.workloads.log_tail(spec.namespace, pod, lines=_LOG_LINES).strip()
    return PermanentError(
        f"version {record.version} of {record.model} does not load: its server ended with exit "
        f"code {exit_code} before it was ready" + (f"; its last words:\n{tail}" if tail else ""),
        code="model-does-not-load",
        hint="mend the version; if it only needs longer than "
        f"{spec.probes.startup_budget_s} s to load, raise probes.startup_budget_s",
    )


def _loading(pod: PodObservation) -> str:
    if pod.pull_failing_s is not None:
        return f"the image of pod {pod.name} cannot be pulled just now: {pod.waiting_message}"
    return f"pod {pod.name} loads the model"


def _await_pod(session: ReleaseSession, name: str) -> str:
    spec, workloads = session.spec, session.ports.workloads
    address: list[str] = []

    def look() -> str | None:
        session.check_orders()
        pod = workloads.pod(spec.namespace, name)
        if pod is None:
            return f"pod {name} does not exist yet"
        not_pulled = image_failure(pod, RolloutPatience())
        if not_pulled:
            raise PermanentError(
                not_pulled,
                code="image-pull-failed",
                hint=f"kubectl -n {spec.namespace} describe pod {name}",
            )
        if pod.ended:
            require_placed(session, pod)
            raise _does_not_load(session, name, pod.last_exit_code)
        if pod.unschedulable_s is not None:
            return f"no node fits: {pod.unschedulable_message}"
        if not pod.ready or pod.address is None:
            return _loading(pod)
        mismatch = image_mismatch(session.record, (pod,))
        if mismatch is not None:
            raise PermanentError(mismatch, code="image-mismatch", hint="look at the registry")
        address.append(pod.address)
        return None

    wait_until(
        look,
        timeout_s=spec.policy.ready_timeout_s,
        what=f"test pod {name} was ready",
        report=session.progress.say,
    )
    return address[0]
