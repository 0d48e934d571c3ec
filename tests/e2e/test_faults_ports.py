"""Faults at the doors of S3 and API server, as people and clients see them.

Releases through unsteady doors: `test_release_port_faults`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from slipway.sandbox.parts import s3
from tests.e2e.support import Sandbox

pytestmark = pytest.mark.drawn_file("disturbing")


@pytest.fixture(autouse=True)
def mended(sandbox: Sandbox) -> Iterator[None]:
    yield
    done = sandbox.run_cli("sandbox", "fault", "remove", "--all")
    assert done.returncode == 0, done.stderr


def fault(sandbox: Sandbox, *args: str) -> None:
    done = sandbox.run_cli("sandbox", "fault", "add", *args)
    assert done.returncode == 0, done.stdout + done.stderr


def wait(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def lease_times(sandbox: Sandbox) -> dict[str, str]:
    """Return when each node last said that it lives."""
    shown = sandbox.kubectl("-n", "kube-node-lease", "get", "leases", "-o", "json")
    assert shown.returncode == 0, shown.stderr
    return {
        item["metadata"]["name"]: item["spec"]["renewTime"]
        for item in json.loads(shown.stdout)["items"]
    }


def test_api_server_away_fails_kubectl_only_and_comes_back_by_itself(sandbox: Sandbox) -> None:
    before = lease_times(sandbox)
    fault(sandbox, "apiserver", "away", "--for", "12s")
    refused = sandbox.kubectl("get", "nodes")
    assert refused.returncode != 0
    assert "refused" in refused.stderr
    wait(lambda: sandbox.kubectl("get", "nodes").returncode == 0)
    after = lease_times(sandbox)
    assert all(after[node] > before[node] for node in before)  # kubelets never noticed


def test_api_server_that_is_overloaded_answers_as_kubernetes_does(sandbox: Sandbox) -> None:
    fault(sandbox, "apiserver", "error", "--status", "500")
    failed = sandbox.kubectl("get", "nodes")
    assert failed.returncode != 0
    assert "of the sandbox answers" in failed.stderr
    assert sandbox.run_cli("sandbox", "fault", "remove", "--all").returncode == 0
    fault(sandbox, "apiserver", "error", "--status", "503", "--share", "0.3", "--seed", "5")
    for _ in range(5):  # client-go asks again as Retry-After says
        assert sandbox.kubectl("get", "nodes").returncode == 0


def s3_client(sandbox: Sandbox) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=s3.endpoint(sandbox.home),
        aws_access_key_id=s3.ACCESS_KEY,
        aws_secret_access_key=sandbox.home.secret("s3-secret-key"),
        region_name=s3.REGION,
        config=Config(retries={"total_max_attempts": 1}, proxies={}),
    )


def test_full_object_store_refuses_writes_serves_reads_and_recovers(sandbox: Sandbox) -> None:
    client, bucket = s3_client(sandbox), s3.EVIDENCE_BUCKET
    client.put_object(Bucket=bucket, Key="faults/kept", Body=b"kept")

    def is_full() -> bool:
        try:
            client.put_object(Bucket=bucket, Key="faults/new", Body=b"new")
        except ClientError as error:
            return bool(error.response["ResponseMetadata"]["HTTPStatusCode"] == 500)
        return False

    fault(sandbox, "s3", "disk-full")
    wait(is_full)
    assert client.get_object(Bucket=bucket, Key="faults/kept")["Body"].read() == b"kept"
    assert sandbox.run_cli("sandbox", "fault", "remove", "--all").returncode == 0
    wait(lambda: not is_full())
    client.delete_object(Bucket=bucket, Key="faults/kept")
    client.delete_object(Bucket=bucket, Key="faults/new")
