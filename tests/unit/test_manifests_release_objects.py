from __future__ import annotations

from dataclasses import replace

import pytest

from slipway.core.errors import PermanentError
from slipway.core.release.orders import Order, OrderKind
from slipway.manifests.release_objects import (
    free_lease,
    involved_object,
    lease_name,
    lease_spec,
    micro_time,
    no_orders,
    order_patch,
    orders_name,
    read_lease,
    read_micro_time,
    read_orders,
    read_record,
    record_config_map,
    record_name,
    release_event,
)
from slipway.ports.records import Lease
from tests.examples import record

AT_NS = 1_790_000_000_123_456_789
AT = "2026-09-21T14:13:20.123456Z"
HELD = Lease(
    service="chat", holder="flow-1", fence=4, duration_s=15.0, version="9", renewed_at_ns=AT_NS
)


def test_record_is_read_back_from_its_config_map() -> None:
    built = record_config_map(record(), namespace="serving")

    assert built["metadata"]["name"] == record_name("chat") == "slipway-chat"
    assert built["metadata"]["annotations"] == {
        "slipway.dev/release": "chat-v1-1",
        "slipway.dev/phase": "requested",
        "slipway.dev/fence": "1",
    }
    assert "resourceVersion" not in built["metadata"]
    assert read_record(built) == record()


def test_write_of_a_record_is_guarded_by_the_version_it_was_read_at() -> None:
    built = record_config_map(record(), namespace="serving", version="42")

    assert built["metadata"]["resourceVersion"] == "42"


@pytest.mark.parametrize("data", [{}, {"data": None}, {"data": {"other": "x"}}])
def test_config_map_without_a_record_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(PermanentError, match="serving/slipway-chat holds no") as caught:
        read_record({"metadata": {"name": "slipway-chat", "namespace": "serving"}, **data})

    assert caught.value.code == "record-damaged"


def an_order(order_id: str) -> Order:
    return Order(order_id=order_id, kind=OrderKind.ABORT, version="2", by="pat", at_ns=1)


def test_orders_are_read_back_from_the_keys_that_their_patches_write() -> None:
    data = order_patch("abort-2", an_order("abort-2"))["data"]
    data |= order_patch("abort-1", an_order("abort-1"))["data"]

    found = read_orders({"data": data})

    assert found.orders == (an_order("abort-1"), an_order("abort-2"))
    assert found.unreadable == {}


def test_patch_that_removes_an_order_names_its_key_alone() -> None:
    assert order_patch("abort-1", None) == {"data": {"abort-1": None}}


def test_orders_are_installed_empty() -> None:
    built = no_orders("chat", "serving")

    assert built["metadata"]["name"] == orders_name("chat") == "slipway-chat-orders"
    assert read_orders(built).orders == read_orders({"data": None}).orders == ()


def test_order_that_cannot_be_read_is_named_beside_those_that_can() -> None:
    data = order_patch("abort-1", an_order("abort-1"))["data"]
    data |= order_patch("abort-2", an_order("abort-3"))["data"]

    found = read_orders({"data": {**data, "abort-0": "{"}})

    assert found.orders == (an_order("abort-1"),)
    assert found.unreadable["abort-0"].startswith("the order cannot be read")
    assert found.unreadable["abort-2"] == "it says that its id is abort-3"


def test_lock_is_installed_free_and_keeps_its_fence_when_installed_again() -> None:
    built = free_lease("chat", "serving")

    assert built["metadata"]["name"] == lease_name("chat") == "slipway-chat"
    assert built["spec"] == {}


def test_held_lock_is_read_back() -> None:
    stored = {"metadata": {"resourceVersion": "9"}, "spec": lease_spec(HELD)}

    found = read_lease("chat", stored)

    assert found.renewed_at_ns == AT_NS - 789
    assert (found.holder, found.fence, found.duration_s, found.version) == ("flow-1", 4, 15.0, "9")


def test_lock_shorter_than_a_second_is_rounded_up() -> None:
    assert lease_spec(replace(HELD, duration_s=0.2))["leaseDurationSeconds"] == 1


@pytest.mark.parametrize(
    "spec", [{}, {"spec": {}}, {"spec": None}, {"spec": {"holderIdentity": None}}]
)
def test_free_lock_has_no_holder(spec: dict[str, object]) -> None:
    found = read_lease("chat", {"metadata": {}, **spec})

    assert (found.service, found.holder, found.fence) == ("chat", "", 0)
    assert (found.duration_s, found.version, found.renewed_at_ns) == (0.0, "", 0)


def test_times_keep_their_microseconds() -> None:
    assert micro_time(AT_NS) == AT
    assert read_micro_time(AT) == AT_NS - 789
    assert read_micro_time("2026-09-21T16:13:20+02:00") == 1_790_000_000_000_000_000


@pytest.mark.parametrize("text", ["yesterday", "2026-09-21T14:13:20"])
def test_time_without_meaning_or_zone_is_refused(text: str) -> None:
    with pytest.raises(PermanentError, match="no time") as caught:
        read_micro_time(text)

    assert caught.value.code == "time-unreadable"


@pytest.mark.parametrize(("warning", "kind"), [(False, "Normal"), (True, "Warning")])
def test_event_is_about_the_record(warning: bool, kind: str) -> None:
    built = release_event(
        "chat", "serving", reason="Promoted", message="v2 serves", warning=warning, at_ns=AT_NS
    )

    assert built["involvedObject"] == involved_object("chat", "serving")
    assert built["involvedObject"]["name"] == "slipway-chat"
    assert (built["type"], built["reason"], built["message"]) == (kind, "Promoted", "v2 serves")
    assert (built["eventTime"], built["lastTimestamp"]) == (AT, "2026-09-21T14:13:20Z")


def test_long_event_message_is_cut_to_what_the_api_takes() -> None:
    def message(text: str) -> str:
        built = release_event(
            "chat", "serving", reason="Held", message=text, warning=True, at_ns=AT_NS
        )
        return str(built["message"])

    assert message("x" * 1024) == "x" * 1024
    assert message("x" * 1025) == "x" * 1021 + "…"
    assert len(message("ä" * 600).encode()) <= 1024
