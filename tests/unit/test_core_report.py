from __future__ import annotations

from dataclasses import replace

from slipway.core.release.record import (
    FORWARD,
    Digests,
    Phase,
    StageVerdict,
    with_candidate,
    with_verdict,
)
from slipway.core.report import release_markdown, route_drawing
from slipway.core.verdicts import Verdict
from tests.examples import DIGEST, IMAGE, advanced, record


def test_report_of_a_success_states_outcome_stages_verdicts_and_route() -> None:
    verdict = StageVerdict(
        stage="tested", verdict=Verdict.PASS, reasons=("accuracy 1 | all", "two\nlines")
    )
    done = with_candidate(with_verdict(advanced(record(), *FORWARD[1:]), verdict), image=IMAGE)
    done = replace(done, digests=Digests(image=DIGEST, weights="ab" * 32))

    text = release_markdown(
        done, [("build", 1.25, "pushed")], now_ns=done.started_at_ns + 90_000_000_000
    )

    assert text.startswith("# chat-v1-1: live\n")
    assert "| build | 1.2 | pushed |" in text
    assert "| tested | PASS | accuracy 1 \\| all<br>two lines |" in text
    assert "| duration | 90.0 s since it was requested |" in text
    assert f"`{DIGEST}`" in text
    assert "| slot | blue (users before: no slot) |" in text
    assert "gateway -- 100 % --> blue" in text


def test_report_of_a_rollback_says_that_users_are_unharmed() -> None:
    back = advanced(record(), Phase.ROLLING_BACK, Phase.ROLLED_BACK)

    text = release_markdown(back, [], now_ns=back.started_at_ns)

    assert "refused, users unharmed" in text.splitlines()[0]
    assert "No stage ended." in text
    assert "No gate was asked." in text
    assert "`not built`" in text


def test_report_of_an_unfinished_release_names_its_phase() -> None:
    text = release_markdown(advanced(record(), Phase.BUILT), [], now_ns=2_000)

    assert text.startswith("# chat-v1-1: unfinished in phase built\n")


def test_drawing_shows_both_slots_and_only_the_live_one_connected() -> None:
    drawing = route_drawing(with_candidate(advanced(record(), *FORWARD[1:]), image=IMAGE))

    assert drawing.startswith("```mermaid")
    assert 'blue["blue<br>version 1"]' in drawing
    assert 'green["green<br>empty"]' in drawing
    assert drawing.count("-- 100 % -->") == 1
    assert "100 %" not in route_drawing(record())


def test_slot_that_a_finished_release_emptied_is_drawn_as_scaled_to_zero() -> None:
    begun = with_candidate(record(), image=IMAGE)
    refused = advanced(begun, Phase.ROLLING_BACK, Phase.ROLLED_BACK)

    assert "version 1, scaled to zero" in route_drawing(refused)
    assert "scaled to zero" not in route_drawing(begun)
