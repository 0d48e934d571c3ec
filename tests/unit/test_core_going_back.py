from __future__ import annotations

from dataclasses import replace

import pytest

from slipway.core.errors import ConflictError, InputError
from slipway.core.release.admission import Request, Start, admit
from slipway.core.release.going_back import (
    going_back,
    redeployed,
    rolled_back_already,
    versions_in_use,
)
from slipway.core.release.promotion import why_unready
from slipway.core.release.record import FORWARD, Digests, Phase, ReleaseRecord, with_candidate
from slipway.core.rollout import RolloutObservation
from slipway.core.routing import Slot
from slipway.core.service import Strategy
from tests.examples import DIGEST, IMAGE, advanced, pod, record, rollout


def released(version: str, before: ReleaseRecord | None = None) -> ReleaseRecord:
    """Return the record of a release that has ended well."""
    asked = Request(service="chat", model="chat-model", version=version, strategy=Strategy.CANARY)
    started = admit(asked, before, token="t", fence=1, now_ns=1)
    assert isinstance(started, Start)
    digests = Digests(image=DIGEST, weights=f"weights of {version}")
    held = with_candidate(replace(started.record, digests=digests), image=IMAGE)
    return advanced(held, *FORWARD[1:])


def back(found: ReleaseRecord | None) -> ReleaseRecord:
    return going_back(found, service="chat", token="fresh", fence=7, now_ns=99)


TWICE = released("2", released("1"))


def test_rollback_goes_to_the_version_in_the_other_slot_at_once() -> None:
    found = back(TWICE)
    assert (found.release_id, found.version, found.phase) == ("chat-v1-3", "1", Phase.REQUESTED)
    assert (found.candidate, found.stable) == (Slot.BLUE, Slot.GREEN)
    assert (found.strategy, found.rollback) == (Strategy.BLUE_GREEN, True)
    assert (found.preview_token, found.fence, found.started_at_ns) == ("fresh", 7, 99)
    assert found.digests == Digests(image=DIGEST, weights="weights of 1")
    assert found.slots == TWICE.slots
    assert found.reason == found.history[0].reason == "rollback from version 2 to version 1"


def test_rollback_that_went_well_is_not_made_twice() -> None:
    done = advanced(back(TWICE), *FORWARD[1:])
    assert rolled_back_already(done)
    assert back(done) is done
    assert not rolled_back_already(TWICE)
    assert not rolled_back_already(None)
    assert not rolled_back_already(back(TWICE))


def test_rollback_left_unfinished_is_gone_on_with() -> None:
    unfinished = advanced(back(TWICE), Phase.BUILT)
    assert back(unfinished) is unfinished


def test_rollback_that_failed_may_be_made_again() -> None:
    failed = advanced(back(TWICE), Phase.BUILT, Phase.ROLLING_BACK, Phase.ROLLED_BACK)
    again = back(failed)
    assert (again.release_id, again.candidate, again.stable) == ("chat-v1-4", *Slot)
    assert again.reason == "rollback from version 2 to version 1"


def test_unfinished_release_is_no_business_of_a_rollback() -> None:
    with pytest.raises(ConflictError) as caught:
        back(advanced(record(), Phase.BUILT))
    assert caught.value.code == "release-unfinished"


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (None, "never released"),
        (released("1"), "no other version ever served"),
        (
            advanced(record(), Phase.ROLLING_BACK, Phase.ROLLED_BACK),
            "no other version ever served",
        ),
        (
            advanced(
                replace(TWICE, phase=Phase.BAKING, release_id="chat-v2-2"),
                Phase.ROLLING_BACK,
                Phase.ROLLED_BACK,
            ),
            "release chat-v2-2, taken back, used its slot",
        ),
    ],
    ids=["never released", "first", "first failed", "second failed"],
)
def test_service_without_an_earlier_version_is_told_so(
    found: ReleaseRecord | None, why: str
) -> None:
    with pytest.raises(InputError, match=why) as caught:
        back(found)
    assert caught.value.code == "no-earlier-version"
    assert caught.value.hint.endswith("slipway release chat VERSION")


def running(*, count: int = 2, digest: str = DIGEST) -> RolloutObservation:
    names = [f"chat-blue-{number}" for number in range(count)]
    return rollout(*(replace(pod(name), image_digest=digest) for name in names))


def test_slot_is_warm_when_all_its_pods_are_ready_and_of_the_recorded_digest() -> None:
    assert why_unready(back(TWICE), running(), replicas=2) is None


@pytest.mark.parametrize(
    ("observed", "why"),
    [
        (None, "no Deployment any more"),
        (running(count=1), "1 ready pods of 2 needed"),
        (running(digest="sha256:other"), "runs sha256:other"),
    ],
    ids=["gone", "too few", "other image"],
)
def test_slot_is_cold_for_a_reason(observed: RolloutObservation | None, why: str) -> None:
    assert why in str(why_unready(back(TWICE), observed, replicas=2))


def test_slot_deployed_anew_belongs_to_the_rollback_with_the_image_it_held() -> None:
    found = redeployed(back(TWICE))
    assert found.slot(Slot.BLUE) == replace(TWICE.slot(Slot.BLUE), release_id="chat-v1-3")
    assert found.slot(Slot.GREEN) == TWICE.slot(Slot.GREEN)


def test_unfinished_rollback_is_not_gone_on_with_by_a_release_of_its_version() -> None:
    asked = Request(service="chat", model="chat-model", version="1")
    with pytest.raises(ConflictError) as caught:
        admit(asked, back(TWICE), token="t", fence=1, now_ns=1)
    assert caught.value.code == "release-unfinished"
    assert "slipway rollback chat" in caught.value.hint


def test_what_serves_and_what_may_serve_again_is_in_use() -> None:
    assert versions_in_use(TWICE) == {"2": "live in chat", "1": "chat may go back to it"}
    assert versions_in_use(released("1")) == {"1": "live in chat"}
    assert versions_in_use(record()) == {}
    same = replace(TWICE, slots=tuple(replace(item, version="2") for item in TWICE.slots))
    assert versions_in_use(same) == {"2": "live in chat"}


def test_version_that_was_taken_back_is_not_in_use() -> None:
    asked = Request(service="chat", model="chat-model", version="3", strategy=Strategy.CANARY)
    started = admit(asked, released("1"), token="t", fence=1, now_ns=1)
    assert isinstance(started, Start)
    begun = with_candidate(started.record, image=IMAGE)
    assert versions_in_use(begun) == {"1": "live in chat", "3": "chat may go back to it"}
    assert versions_in_use(advanced(begun, Phase.ROLLING_BACK, Phase.ROLLED_BACK)) == {
        "1": "live in chat"
    }
