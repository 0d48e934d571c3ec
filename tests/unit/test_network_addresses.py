from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

import pytest

from slipway.core.errors import InputError, PermanentError
from slipway.sandbox.network.addresses import (
    Loopback,
    ServiceAddress,
    ServiceName,
    Target,
    map_endpoints,
    node_address,
    shown_address,
    target_of,
)
from slipway.sandbox.network.discovery import ENDPOINTS, map_response, type_url
from slipway.sandbox.network.request import ProxyRequest, parse_head
from slipway.sandbox.network.services import Endpoint, port_name, ready_endpoints

SERVICES = IPv4Network("10.96.0.0/16")


def test_pod_address_maps_to_loopback_and_back() -> None:
    assert node_address("100.100.1.5") == "127.100.1.5"
    assert shown_address("127.100.1.5") == "100.100.1.5"


@pytest.mark.parametrize("address", ["127.0.0.1", "10.100.100.7", "100.64.0.1", "example.com"])
def test_other_address_stays_as_it_is(address: str) -> None:
    assert node_address(address) == address
    assert shown_address(address) == address


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("100.100.2.9", Loopback("127.100.2.9")),
        ("127.0.0.1", Loopback("127.0.0.1")),
        ("127.100.1.2", Loopback("127.100.1.2")),
        ("localhost", Loopback("127.0.0.1")),
        ("node-a", Loopback("127.0.0.1")),
        ("NODE-B.", Loopback("127.0.0.1")),
        ("10.96.3.4", ServiceAddress("10.96.3.4")),
        ("llama3.serving", ServiceName("llama3", "serving")),
        ("llama3.serving.svc", ServiceName("llama3", "serving")),
        ("llama3.serving.svc.cluster.local", ServiceName("llama3", "serving")),
    ],
)
def test_host_of_the_sandbox_has_a_target(host: str, expected: Target) -> None:
    assert target_of(host, SERVICES) == expected


@pytest.mark.parametrize(
    "host",
    [
        *("8.8.8.8", "100.101.1.1", "10.97.0.1", "0.0.0.0", "128.0.0.1", "::1", "[::1]", ""),
        *("example", "www.example.com", "a.b.c", "a.b.svc.cluster", "-a.b", "a_b.c", "2130706433"),
        *("127.1", "0x7f.0.0.1", "node-c", "svc.", "a..svc"),
    ],
)
def test_host_outside_the_sandbox_has_no_target(host: str) -> None:
    assert target_of(host, SERVICES) is None


def test_two_label_name_is_a_service_and_never_dialled_as_it_is() -> None:
    assert target_of("example.com", SERVICES) == ServiceName("example", "com")


# -- discovery messages ---------------------------------------------------------------------------


def field(number: int, data: bytes) -> bytes:
    size, prefix = len(data), bytes([number << 3 | 2])
    while size >= 0x80:
        prefix += bytes([size & 0x7F | 0x80])
        size >>= 7
    return prefix + bytes([size]) + data


def test_endpoint_message_is_mapped_with_equal_length() -> None:
    resource = field(1, b"100.100.1.12") + field(1, b"100.100.2.3")
    message = field(1, b"v1") + field(2, resource * 40) + field(4, ENDPOINTS) + field(5, b"n")
    mapped = map_response(message)
    assert len(mapped) == len(message)
    assert mapped == message.replace(b"100.100.", b"127.100.")


def test_message_of_another_type_is_passed_on_untouched() -> None:
    listener = b"type.googleapis.com/envoy.config.listener.v3.Listener"
    message = field(2, b"100.100.1.12 " + ENDPOINTS) + field(4, listener)
    assert map_response(message) is message


@pytest.mark.parametrize("address", [b"10.100.100.7", b"1100.100.1.1", b"100.100.x"])
def test_text_that_only_contains_the_digits_stays(address: bytes) -> None:
    message = field(1, address)
    assert map_endpoints(message) == message


def test_type_url_is_found_behind_every_kind_of_field() -> None:
    other = b"\x18\x96\x01" + b"\x31" + bytes(8) + b"\x3d" + bytes(4)
    assert type_url(other + field(4, b"the type")) == b"the type"
    assert type_url(b"") == b""
    assert type_url(b"\x0b\x00") == b""
    assert type_url(b"\xff") == b""


# -- proxy requests -------------------------------------------------------------------------------


def test_connect_names_host_and_port() -> None:
    head = b"CONNECT 100.100.1.2:8000 HTTP/1.1\r\nHost: x\r\n\r\n"
    assert parse_head(head) == ProxyRequest("CONNECT", "100.100.1.2", 8000)


def test_absolute_url_becomes_an_origin_request() -> None:
    head = (
        b"POST http://llama3.serving:80/v1/x?y=1 HTTP/1.1\r\nHost: wrong\r\n"
        b"Proxy-Connection: keep-alive\r\nConnection: keep-alive\r\nX-Own: 1\r\n\r\n"
    )
    request = parse_head(head)
    assert (request.host, request.port) == ("llama3.serving", 80)
    assert request.forwarded.split(b"\r\n") == [
        *(b"POST /v1/x?y=1 HTTP/1.1", b"Host: llama3.serving:80", b"X-Own: 1"),
        *(b"Connection: close", b"", b""),
    ]


def test_default_port_and_path_are_filled_in() -> None:
    request = parse_head(b"GET http://100.100.1.2 HTTP/1.1\r\n\r\n")
    assert request.port == 80
    assert request.forwarded.startswith(b"GET / HTTP/1.1\r\nHost: 100.100.1.2\r\n")


def test_upgrade_keeps_its_connection_header() -> None:
    head = b"GET http://a.b/ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    forwarded = parse_head(head).forwarded
    assert b"Connection: Upgrade\r\nUpgrade: websocket" in forwarded
    assert b"close" not in forwarded


@pytest.mark.parametrize(
    "line",
    [
        *(b"GET / HTTP/1.1", b"GET https://a.b/ HTTP/1.1", b"CONNECT a.b HTTP/1.1", b"nonsense"),
        *(b"CONNECT a.b:99999 HTTP/1.1", b"CONNECT :80 HTTP/1.1", b"GET http:///x HTTP/1.1"),
    ],
)
def test_request_that_is_not_for_a_proxy_is_refused(line: bytes) -> None:
    with pytest.raises(InputError, match="not a proxy request"):
        parse_head(line + b"\r\n\r\n")


# -- services -------------------------------------------------------------------------------------


def service(*ports: dict[str, object]) -> dict[str, object]:
    return {"metadata": {"name": "s", "namespace": "n"}, "spec": {"ports": list(ports)}}


def test_port_of_a_service_is_known_by_its_name() -> None:
    assert port_name(service({"name": "http", "port": 80}), 80) == "http"
    assert port_name(service({"port": 80}), 80) == ""
    with pytest.raises(PermanentError, match="no port 81"):
        port_name(service({"name": "http", "port": 80}), 81)


def test_only_ready_endpoints_of_the_named_port_are_returned() -> None:
    slices: list[dict[str, Any]] = [
        {
            "ports": [{"name": "http", "port": 8000}, {"name": "metrics", "port": 9000}],
            "endpoints": [
                {"addresses": ["100.100.1.2"], "conditions": {"ready": True}},
                {"addresses": ["100.100.1.3"], "conditions": {"ready": False}},
                {"addresses": ["100.100.1.4"], "conditions": {}},
            ],
        },
        {"ports": None, "endpoints": None},
    ]
    assert ready_endpoints(slices, "http") == (
        Endpoint("127.100.1.2", 8000),
        Endpoint("127.100.1.4", 8000),
    )
