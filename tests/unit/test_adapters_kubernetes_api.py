"""The API server's answers as errors with names: every class of status, none left to chance."""

from __future__ import annotations

import json

import pytest

from slipway.adapters.kubernetes_api import map_api_error, object_path
from slipway.core.errors import ConflictError, PermanentError, SlipwayError, TransientError

_WHAT = "PATCH /apis/apps/v1/namespaces/serving/deployments/chat-blue"


def _status(message: str, reason: str = "") -> bytes:
    return json.dumps({"kind": "Status", "message": message, "reason": reason}).encode()


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, PermanentError, "refused-by-cluster"),
        (401, PermanentError, "forbidden"),
        (403, PermanentError, "forbidden"),
        (404, PermanentError, "not-found"),
        (405, PermanentError, "refused-by-cluster"),
        (409, ConflictError, "conflict"),
        (410, PermanentError, "refused-by-cluster"),
        (413, PermanentError, "refused-by-cluster"),
        (415, PermanentError, "refused-by-cluster"),
        (422, PermanentError, "refused-by-cluster"),
        (429, TransientError, "api-busy"),
        (500, TransientError, "api-busy"),
        (502, TransientError, "api-busy"),
        (503, TransientError, "api-busy"),
        (504, TransientError, "api-busy"),
        (302, PermanentError, "refused-by-cluster"),
        (None, PermanentError, "refused-by-cluster"),
    ],
)
def test_every_status_becomes_its_error_with_the_servers_words(
    status: int | None, kind: type[SlipwayError], code: str
) -> None:
    error = map_api_error(status, _status("the server's own words"), {}, _WHAT)
    assert type(error) is kind
    assert error.code == code
    assert error.message == f"{_WHAT}: the server's own words"
    assert error.hint


def test_every_number_a_server_can_answer_is_mapped() -> None:
    for status in range(300, 600):
        error = map_api_error(status, b"", {}, _WHAT)
        passing = status == 429 or status >= 500
        assert isinstance(error, TransientError) == passing


def test_quota_refusal_is_told_from_a_missing_permission() -> None:
    body = _status(
        'pods "chat-test" is forbidden: exceeded quota: models,'
        " requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=2,"
        " limited: requests.nvidia.com/gpu=2",
        "Forbidden",
    )
    error = map_api_error(403, body, {}, _WHAT)
    assert isinstance(error, PermanentError)
    assert error.code == "quota-exceeded"
    assert "limited: requests.nvidia.com/gpu=2" in error.message


def test_refusal_of_a_stale_fencing_number_means_that_the_lock_is_lost() -> None:
    """As a Kubernetes 1.36 API server answered."""
    body = _status(
        'deployments.apps "chat-blue" is forbidden: ValidatingAdmissionPolicy'
        " 'slipway-fence' with binding 'slipway-fence' denied request: stale fencing number 3:"
        " chat-blue is at 4",
        "Forbidden",
    )
    error = map_api_error(403, body, {}, _WHAT)
    assert isinstance(error, ConflictError)
    assert error.code == "lock-lost"
    assert "chat-blue is at 4" in error.message


def test_unknown_field_that_apply_answers_with_500_is_refused_for_good() -> None:
    """As a Kubernetes 1.36 API server answered; a repeat would be answered alike."""
    body = _status(
        "failed to create typed patch object (serving/chat-blue; apps/v1, Kind=Deployment):"
        " .spec.replica: field not declared in schema"
    )
    error = map_api_error(500, body, {}, _WHAT)
    assert isinstance(error, PermanentError)
    assert error.code == "refused-by-cluster"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": "2"}, 2.0),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({}, None),
    ],
)
def test_retry_after_is_carried_on(headers: dict[str, str], expected: float | None) -> None:
    error = map_api_error(429, _status("too many requests"), headers, _WHAT)
    assert isinstance(error, TransientError)
    assert error.retry_after_s == expected


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>bad gateway</html>", "<html>bad gateway</html>"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"", "no message"),
        (None, "no message"),
        (b'["a list"]', '["a list"]'),
        (b'{"kind": "Status"}', '{"kind": "Status"}'),
    ],
)
def test_answer_that_is_no_status_object_is_shown_as_it_is(body: bytes | None, words: str) -> None:
    assert map_api_error(500, body, {}, _WHAT).message == f"{_WHAT}: {words}"


def test_long_answer_is_cut() -> None:
    assert len(map_api_error(500, b"x" * 10_000, {}, _WHAT).message) < 700
    assert len(map_api_error(500, _status("x" * 10_000), {}, _WHAT).message) < 2200


@pytest.mark.parametrize(
    ("kind", "namespace", "name", "path"),
    [
        ("Pod", "serving", None, "/api/v1/namespaces/serving/pods"),
        ("Pod", "serving", "a", "/api/v1/namespaces/serving/pods/a"),
        ("Namespace", None, "serving", "/api/v1/namespaces/serving"),
        (
            "Lease",
            "serving",
            "slipway-chat",
            "/apis/coordination.k8s.io/v1/namespaces/serving/leases/slipway-chat",
        ),
        (
            "VirtualService",
            "serving",
            "chat",
            "/apis/networking.istio.io/v1/namespaces/serving/virtualservices/chat",
        ),
    ],
)
def test_path_of_an_object_is_the_api_servers(
    kind: str, namespace: str | None, name: str | None, path: str
) -> None:
    assert object_path(kind, namespace, name) == path
