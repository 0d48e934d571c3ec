"""Bad input and faults: each ends in a clear message or a finished release, users unharmed."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slipway.core.release.record import Phase
from tests.e2e.canaries import POLICY
from tests.e2e.support import Sandbox, World, said, users

_STEADY: dict[str, Any] = {"replicas": 1, "probes__startup_budget_s": 6}


@pytest.fixture
def world(sandbox: Sandbox, tmp_path: Path) -> World:
    return World(sandbox, tmp_path)


@pytest.fixture(scope="module")
def steady(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, str]:
    """A service with a live version."""
    world = World(sandbox, tmp_path_factory.mktemp("live"))
    service = world.given_service("steady", **_STEADY)
    version = world.given_version(service)
    first = world.release(service, version)
    assert first.returncode == 0, said(first)
    return world, service


@pytest.fixture
def live(steady: tuple[World, str]) -> tuple[World, str, str]:
    """The steady service with the version that is live as the test begins."""
    world, service = steady
    record = world.record(service)
    assert record.live_slot is not None
    return world, service, record.slot(record.live_slot).version


def unharmed(world: World, service: str, version: str) -> None:
    """Users are still answered by `version`, and nothing of the failed release is left."""
    record = world.record(service)
    assert record.live_slot is not None
    assert record.slot(record.live_slot).version == version
    answer = world.ask(service)
    assert answer.json()["choices"][0]["message"]["content"] == "pong"
    assert answer.headers["x-slipway-slot"] == record.live_slot
    assert world.leftovers(service) == []


def test_the_digest_tested_is_the_digest_recorded_and_the_digest_running(
    live: tuple[World, str, str],
) -> None:
    world, service, _ = live
    record = world.record(service)
    pods = json.loads(
        world.sandbox.kubectl(
            *("-n", "serving", "get", "pods", "-o", "json"),
            *("-l", f"slipway.dev/serves={service}"),
        ).stdout
    )["items"]
    evidence = world.ports(service).objects
    key = next(verdict.evidence_key for verdict in record.verdicts if verdict.stage == "test")
    tested = json.loads(evidence.get(key))
    assert {pod["status"]["containerStatuses"][0]["imageID"].split("@")[1] for pod in pods} == {
        record.digests.image
    }
    assert tested["image"] == record.digests.image


def test_the_same_release_twice_equals_once(live: tuple[World, str, str]) -> None:
    world, service, version = live
    before = world.record(service)
    again = world.release(service, version)
    assert again.returncode == 0
    assert "live already" in said(again)
    # Each opening of a release stamps its own number.
    assert replace(world.record(service), fence=before.fence) == before


@pytest.mark.drawn("fault or adoption")
@pytest.mark.parametrize(
    ("behaviour", "code"),
    [
        ({"crash_on_start": 7}, "model-does-not-load"),
        ({"never_ready": True}, "model-does-not-load"),
        ({"wrong_answers": True}, "model-test-failed"),
        ({"ttft_ms": 900}, "benchmark-failed"),
    ],
    ids=["crashes", "never ready", "wrong answers", "slow"],
)
def test_a_bad_version_is_refused_and_users_stay(
    live: tuple[World, str, str], behaviour: dict[str, float], code: str
) -> None:
    world, service, version = live
    bad = world.given_version(service, **behaviour)
    promised = {"slo__ttft_p95_ms": 500} if code == "benchmark-failed" else {}
    world.given_file(service, **_STEADY, **promised)
    try:
        refused = world.release(service, bad)
    finally:
        world.given_file(service, **_STEADY)
    assert refused.returncode != 0
    assert code in said(refused)
    assert world.record(service).phase is Phase.ROLLED_BACK
    unharmed(world, service, version)


def test_an_unknown_service_or_version_is_named_and_nothing_is_written(
    live: tuple[World, str, str],
) -> None:
    world, service, _ = live
    before = world.record(service)
    unknown = world.release("nobody", "1")
    assert unknown.returncode == 3
    assert "nobody" in said(unknown)
    assert service in said(unknown)
    missing = world.release(service, "999")
    assert missing.returncode == 3
    assert "999" in said(missing)
    assert world.record(service) == before


def test_a_typo_in_a_service_file_is_named_with_file_and_field(world: World) -> None:
    service = world.given_service("typo")
    file = world.services / "typo.yaml"
    file.write_text(file.read_text().replace("bake_s:", "bake_seconds:"))
    result = world.release(service, "1")
    assert result.returncode == 3
    assert "typo.yaml" in said(result)
    assert "bake_seconds" in said(result)


@pytest.mark.drawn("fault or adoption")
def test_a_second_release_while_one_runs_is_refused_naming_the_first(world: World) -> None:
    # It waits for a person: however slow the second one starts, the first one still runs.
    step = {"weight_percent": 50, "bake_s": 1, "approval": True}
    service = world.given_service(
        "one-at-a-time", **{**POLICY, "replicas": 1, "policy__ramp__steps": [step]}
    )
    assert world.release(service, world.given_version(service)).returncode == 0
    with (
        users(world, service, rate=20) as crowd,
        world.releasing(service, world.given_version(service)) as first,
    ):
        held = world.wait_for_phase(service, "held")
        second = world.release(service, world.given_version(service))
        assert second.returncode == 5
        assert "release-running" in said(second)
        assert held.release_id in said(second)
        assert world.cli("approve", service, "50").returncode == 0
        first.end()
        assert {row["status"] for row in crowd.stop()} == {"ok"}


@pytest.mark.drawn("fault or adoption")
def test_a_quota_too_small_for_a_second_slot_refuses_before_anything_is_made(
    world: World,
) -> None:
    service = world.given_service("narrow", replicas=1, resources__gpus=1)
    assert world.release(service, world.given_version(service)).returncode == 0
    kubectl = world.sandbox.kubectl
    held = json.loads(kubectl("-n", "serving", "get", "pods", "-o", "json").stdout)["items"]
    gpus = sum(
        int(pod["spec"]["containers"][0]["resources"].get("limits", {}).get("nvidia.com/gpu", 0))
        for pod in held
    )
    kubectl(
        *("-n", "serving", "create", "quota", "narrow"),
        f"--hard=requests.nvidia.com/gpu={gpus}",
    )
    try:
        refused = world.release(service, world.given_version(service, ttft_ms=6))
    finally:
        kubectl("-n", "serving", "delete", "quota", "narrow")
    assert refused.returncode == 6
    assert "needs 1 GPU of quota narrow (requests.nvidia.com/gpu), 0 GPUs free" in said(refused)
    assert world.leftovers(service) == []
    assert world.ask(service).status_code == 200


@pytest.mark.drawn("fault or adoption")
def test_a_base_image_that_is_not_in_the_registry_is_named_before_anything_is_written(
    world: World,
) -> None:
    digest = "sha256:" + "0" * 64
    service = world.given_service("baseless", server__image=f"slipway/simulated@{digest}")
    refused = world.release(service, world.given_version(service))
    assert refused.returncode == 6
    assert digest in said(refused)
    assert "[image-missing]" in said(refused)
    assert world.ports(service).releases.load(service) is None


@pytest.mark.drawn("fault or adoption")
def test_one_changed_byte_of_a_layer_in_the_registry_is_refused(world: World) -> None:
    service = world.given_service("tampered", replicas=1)
    assert world.release(service, world.given_version(service)).returncode == 0
    # Its own seed: the registry must not have this very layer from another test already.
    version = world.given_version(service, seed=time.time_ns() % 1_000_000)
    slow = world.given_service("tampered", replicas=1, policy__bake_s=1)
    blobs = world.sandbox.home.data("registry")
    known = set(blobs.rglob("data"))
    process = world.start_release(slow, version)
    world.wait_for_phase(service, "built", "tested", "rolled_back")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    layers = [path for path in set(blobs.rglob("data")) - known if path.stat().st_size > 1024]
    assert layers
    for layer in layers:
        raw = bytearray(layer.read_bytes())
        raw[600] ^= 1
        layer.write_bytes(raw)
    refused = world.release(service, version)
    assert refused.returncode == 6, said(refused)
    assert "digest" in said(refused) or "sha256" in said(refused)
    assert world.ask(service).status_code == 200


@pytest.mark.drawn("fault or adoption")
@pytest.mark.parametrize("phase", ["tested", "baking"])  # amid the deploy, and the bake
def test_a_killed_release_is_finished_by_a_rerun_after_its_lock_ran_out(
    world: World, phase: str
) -> None:
    service = world.given_service(f"killed-{phase}", replicas=1, policy__bake_s=3)
    assert world.release(service, world.given_version(service)).returncode == 0
    version = world.given_version(service, start_delay_s=2)
    process = world.start_release(service, version)
    world.wait_for_phase(service, phase)
    time.sleep(0.5)  # somewhere in the phase: wherever that is, the outcome is the same
    process.kill()
    process.communicate()
    again = world.release(service, version)
    assert "watching for 15 s whether it lives" in said(again)
    assert again.returncode == 0, said(again)
    assert world.record(service).phase is Phase.DONE
    assert world.record(service).slot(world.record(service).candidate).version == version
    assert world.leftovers(service) == []
