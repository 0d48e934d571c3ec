"""Faults as values: targets, bounds, dice, answers, and which pods are hit."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from slipway.core.errors import InputError
from slipway.sandbox.faults.answers import Dialect, answer
from slipway.sandbox.faults.gateway import is_routed
from slipway.sandbox.faults.model import Fault, Kind, Place, Target, checked, parse_target
from slipway.sandbox.faults.plan import Chances, begins_request
from slipway.sandbox.faults.pods import PodPort, faulted_pods
from slipway.sandbox.faults.store import Faults, fault_from_json, read_faults, write_faults
from slipway.sandbox.network.addresses import map_endpoints


def fault(kind: Kind = Kind.ERROR, target: str = "s3", **values: Any) -> Fault:
    return Fault(id=values.pop("id", "f1"), target=parse_target(target), kind=kind, **values)


@pytest.mark.parametrize("text", ["s3", "apiserver", "node/node-a", "service/llama3", "pod/a/b"])
def test_target_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_target(text)) == text


@pytest.mark.parametrize("text", ["", "etcd", "service/", "node/a/b", "pod/A", "service/x/Y"])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_target(text)
    assert caught.value.code == "fault-target-unknown"


@pytest.mark.parametrize(
    "wrong",
    [
        fault(share=0),
        fault(share=1.5),
        fault(status=404),
        fault(Kind.LATENCY),
        fault(Kind.CUT, after_bytes=-1),
        fault(Kind.DISK_FULL, "registry"),
        fault(Kind.ERROR, "node/node-a"),
    ],
    ids=str,
)
def test_fault_that_makes_no_sense_is_refused(wrong: Fault) -> None:
    with pytest.raises(InputError) as caught:
        checked(wrong)
    assert caught.value.code == "fault-invalid"


def test_faults_survive_the_file_and_a_damaged_file_holds_none(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    kept = Faults((fault(share=0.25, until_ns=5), fault(Kind.AWAY, "pod/a/b", id="f2")), 7)
    write_faults(path, kept)
    assert read_faults(path) == kept
    path.write_text(path.read_text()[:-40])
    assert read_faults(path) == Faults()
    assert fault_from_json(json.loads(json.dumps(asdict(kept.active[1])))) == kept.active[1]


def test_fault_is_over_at_its_end_and_one_without_an_end_never() -> None:
    assert fault(until_ns=10).is_over(10)
    assert not fault(until_ns=10).is_over(9)
    assert not fault().is_over(10**19)


def test_dice_repeat_with_the_seed_and_each_fault_has_its_own() -> None:
    some, other = fault(share=0.3, seed=4), fault(Kind.CUT, share=0.3, seed=9, id="f2")
    alone = Chances()
    wanted = [alone.plan((some,)).ending for _ in range(500)]
    both = Chances()
    found = [both.plan((some, other)).ending for _ in range(500)]
    assert [one if one is some else None for one in found] == wanted
    assert 100 < wanted.count(some) < 200  # 150 expected, ± 5 standard deviations
    assert other in found


def test_delays_add_up_and_stay_within_their_jitter() -> None:
    chances = Chances()
    slow = fault(Kind.LATENCY, latency_ms=100, jitter_ms=50)
    slower = fault(Kind.LATENCY, latency_ms=1000, id="f2")
    delays_s = [chances.plan((slow, slower)).delay_s for _ in range(200)]
    assert min(delays_s) >= 1.1
    assert max(delays_s) <= 1.15
    assert len(set(delays_s)) > 100


@pytest.mark.parametrize(
    ("data", "begins"),
    [
        (b"GET / HTTP/1.1\r\n", True),
        (b"PUT /bucket/key HTTP/1.1\r\n", True),
        (b"\x16\x03\x01\x02\x00", False),
        (b"GETTING on", False),
        (b"rest of an upload", False),
    ],
)
def test_request_is_known_by_its_first_bytes(data: bytes, begins: bool) -> None:
    assert begins_request(data) is begins


@pytest.mark.parametrize("dialect", Dialect)
def test_answer_is_a_whole_response(dialect: Dialect) -> None:
    head, _, body = answer(dialect, fault(status=503)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"Content-Length: %d\r\n" % len(body) in head
    assert b"Retry-After: 1\r\n" in head
    assert b"Retry-After" not in answer(dialect, fault(status=500))


# -- pods -----------------------------------------------------------------------------------------


def endpoint_slice(service: str, pods: dict[str, str], namespace: str = "serving") -> Any:
    return {
        "metadata": {
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service},
        },
        "ports": [{"name": "http", "port": 8000}],
        "endpoints": [
            {"addresses": [address], "targetRef": {"kind": "Pod", "name": name}}
            for name, address in pods.items()
        ],
    }


SLICES = (
    endpoint_slice("llama3", {"a": "100.100.1.2", "b": "100.100.2.3"}),
    endpoint_slice("other", {"c": "100.100.1.4"}),
    endpoint_slice("llama3", {"d": "100.100.1.5"}, namespace="elsewhere"),
)


def test_fault_on_a_service_hits_its_pods_and_no_others() -> None:
    some = fault(target="service/llama3")
    assert faulted_pods((some,), SLICES) == {
        PodPort("127.100.1.2", 8000): (some,),
        PodPort("127.100.2.3", 8000): (some,),
    }


def test_fault_on_a_pod_adds_to_that_of_its_service() -> None:
    some, more = fault(target="service/llama3"), fault(target="pod/b", id="f2")
    found = faulted_pods((fault(), some, more), SLICES)
    assert found[PodPort("127.100.2.3", 8000)] == (some, more)
    assert found[PodPort("127.100.1.2", 8000)] == (some,)
    assert PodPort("127.100.2.3", 8000).door_address == "127.101.2.3"


def test_fault_on_what_is_not_there_hits_nothing() -> None:
    assert faulted_pods((fault(target="pod/nobody"),), SLICES) == {}
    assert faulted_pods((fault(target="pod/a"),), ({"metadata": {}, "endpoints": None},)) == {}
    assert Target(Place.POD, "a", "serving") == parse_target("pod/a")


def test_discovery_sends_only_faulted_pods_through_their_doors() -> None:
    told = b"\x0b100.100.1.2\x18\x0c100.100.1.23\x18\x0e100.100.21.2\x18\x0c10.100.100.1"
    assert map_endpoints(told, frozenset({b"1.2"})) == (
        b"\x0b127.101.1.2\x18\x0c127.100.1.23\x18\x0e127.100.21.2\x18\x0c10.100.100.1"
    )


def test_gateway_is_routed_once_it_shows_exactly_the_doors() -> None:
    line = "outbound|80||x::{}:8000::cx_active::0\n"
    assert is_routed(line.format("127.101.1.2"), ("127.100.1.2",))
    assert is_routed("", ("127.100.1.2",))  # a pod that the gateway does not know
    assert not is_routed(line.format("127.100.1.2"), ("127.100.1.2",))
    assert not is_routed(line.format("127.101.1.2"), ())
