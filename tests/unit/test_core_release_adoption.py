from __future__ import annotations

from slipway.core.release.admission import AlreadyDone, Start, admit, requested
from slipway.core.release.adoption import adopted_record
from slipway.core.release.promotion import alias_due
from slipway.core.release.record import ReleaseRecord, adopted_workload, with_own_workload
from slipway.core.release.storage import from_storage, to_storage
from slipway.core.routing import Slot
from tests.examples import IMAGE, service


def adopted() -> ReleaseRecord:
    return adopted_record(
        service(),
        version="7",
        slot=Slot.BLUE,
        workload="chat-ha",
        image=IMAGE,
        fence=3,
        now_ns=1_000,
    )


def test_adopted_service_is_live_with_the_version_that_it_serves() -> None:
    record = adopted()

    assert record.terminal
    assert record.live_slot is Slot.BLUE
    assert record.slot(Slot.BLUE).workload == adopted_workload(record) == "chat-ha"
    assert alias_due(record) == "7"
    assert from_storage(to_storage(record)) == record


def test_next_version_goes_into_the_other_slot() -> None:
    request = requested(service(), "8")

    admission = admit(request, adopted(), token="t", fence=4, now_ns=2_000)

    assert isinstance(admission, Start)
    assert admission.record.candidate is Slot.GREEN
    assert admission.record.stable is Slot.BLUE
    assert admission.record.release_id == "chat-v8-2"


def test_version_that_was_adopted_is_released_already() -> None:
    request = requested(service(), "7")

    assert isinstance(admit(request, adopted(), token="t", fence=4, now_ns=2_000), AlreadyDone)


def test_slot_that_is_used_again_gets_a_deployment_of_its_own() -> None:
    left = with_own_workload(adopted(), "chat-blue")

    assert left.slot(Slot.BLUE).workload == "chat-blue"
    assert adopted_workload(left) == ""
