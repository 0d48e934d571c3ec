from __future__ import annotations

import json

import pytest

from slipway.core.errors import InputError
from slipway.sandbox.servers.simulated_behaviour import (
    Behaviour,
    Fate,
    answer,
    cut_after,
    delay_s,
    fate,
    parse_behaviour,
    uniform,
)


def test_empty_object_gives_the_defaults() -> None:
    assert parse_behaviour("{}") == Behaviour()


def test_every_key_is_read() -> None:
    stated = {
        "ttft_ms": 200,
        "gap_ms": 1.5,
        "jitter_percent": 10,
        "error_rate_percent": 20,
        "truncate_rate_percent": 30,
        "crash_after_s": 4,
        "crash_on_start": 3,
        "start_delay_s": 0.5,
        "never_ready": True,
        "wrong_answers": True,
        "answers": {"a": "b"},
        "tokens": 7,
        "seed": -1,
    }
    behaviour = parse_behaviour(json.dumps(stated))
    assert {name: getattr(behaviour, name) for name in stated} == stated


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[]", "one JSON object"),
        ("{", "not JSON"),
        ('{"ttft": 1}', "unknown key 'ttft'"),
        ('{"ttft_ms": "fast"}', "ttft_ms must be a number"),
        ('{"ttft_ms": true}', "ttft_ms must be a number"),
        ('{"ttft_ms": -1}', "ttft_ms must be within 0"),
        ('{"ttft_ms": NaN}', "ttft_ms must be within 0"),
        ('{"gap_ms": Infinity}', "gap_ms must be within 0"),
        ('{"error_rate_percent": 101}', "error_rate_percent must be within 0..100"),
        ('{"tokens": 0}', "tokens must be within 1"),
        ('{"tokens": 1.5}', "tokens must be a whole number"),
        ('{"crash_on_start": 256}', "crash_on_start must be within 0..255"),
        ('{"never_ready": 1}', "never_ready must be true or false"),
        ('{"answers": {"ping": 1}}', "answers must map"),
        ('{"error_rate_percent": 60, "truncate_rate_percent": 60}', "exceed 100"),
    ],
)
def test_invalid_file_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_behaviour(text)
    assert caught.value.code == "simulated-file-invalid"
    assert reason in caught.value.message


def test_several_problems_are_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        parse_behaviour('{"ttft": 1, "gap_ms": -1}')
    assert "ttft" in caught.value.message
    assert "gap_ms" in caught.value.message


def test_true_as_exit_code_means_one() -> None:
    assert parse_behaviour('{"crash_on_start": true}').crash_on_start == 1


def test_same_arguments_give_the_same_number_and_all_lie_in_the_unit_interval() -> None:
    drawn = [uniform(1, number, 0) for number in range(2000)]
    assert drawn == [uniform(1, number, 0) for number in range(2000)]
    assert all(0 <= value < 1 for value in drawn)
    assert sum(drawn) / len(drawn) == pytest.approx(0.5, abs=0.02)
    assert drawn != [uniform(2, number, 0) for number in range(2000)]


def test_fates_come_at_the_rates_stated() -> None:
    behaviour = Behaviour(error_rate_percent=10, truncate_rate_percent=20, seed=3)
    fates = [fate(behaviour, number) for number in range(10_000)]
    assert fates.count(Fate.ERROR) / 10_000 == pytest.approx(0.10, abs=0.01)
    assert fates.count(Fate.TRUNCATE) / 10_000 == pytest.approx(0.20, abs=0.01)


def test_zero_rates_never_fail_and_full_rates_always_do() -> None:
    assert {fate(Behaviour(), number) for number in range(1000)} == {Fate.ANSWER}
    always = Behaviour(error_rate_percent=100)
    assert {fate(always, number) for number in range(1000)} == {Fate.ERROR}


def test_first_token_waits_for_ttft_and_the_others_for_the_gap() -> None:
    behaviour = Behaviour(ttft_ms=200, gap_ms=10)
    assert [delay_s(behaviour, 0, token) for token in range(3)] == [0.2, 0.01, 0.01]


def test_jitter_stays_within_its_percent_and_varies() -> None:
    behaviour = Behaviour(gap_ms=100, jitter_percent=20)
    delays = [delay_s(behaviour, 5, token) for token in range(1, 500)]
    assert min(delays) >= 0.08
    assert max(delays) <= 0.12
    assert max(delays) - min(delays) > 0.03


def test_cut_comes_after_the_first_token_and_before_the_last() -> None:
    cuts = {cut_after(Behaviour(), number, 8) for number in range(500)}
    assert cuts == set(range(1, 8))
    assert cut_after(Behaviour(), 0, 1) == 1


@pytest.mark.parametrize("prompt", ["ping", "  PING "])
def test_known_prompt_gets_its_answer(prompt: str) -> None:
    given = answer(Behaviour(), prompt, max_tokens=None, ignore_eos=False)
    assert (given.text(), given.finish_reason) == ("pong", "stop")


def test_unknown_prompt_gets_the_same_words_every_time_and_another_prompt_others() -> None:
    behaviour = Behaviour(tokens=8)
    texts = [
        answer(behaviour, prompt, max_tokens=None, ignore_eos=False).text()
        for prompt in ("Tell me.", "Tell me.", "Tell us.")
    ]
    assert texts[0] == texts[1] != texts[2]
    assert len(texts[0].split()) == 8


def test_limit_cuts_the_answer_and_says_so() -> None:
    given = answer(Behaviour(tokens=8), "x", max_tokens=3, ignore_eos=False)
    assert (len(given.text().split()), given.finish_reason) == (3, "length")


def test_limit_above_the_answer_changes_nothing() -> None:
    given = answer(Behaviour(), "ping", max_tokens=16, ignore_eos=False)
    assert (given.length, given.finish_reason) == (1, "stop")


@pytest.mark.parametrize("max_tokens", [1, 16, 500])
def test_ignore_eos_gives_just_the_length_asked_for(max_tokens: int) -> None:
    given = answer(Behaviour(), "ping", max_tokens=max_tokens, ignore_eos=True)
    assert given.length == len(given.text().split()) == max_tokens


def test_wrong_answers_never_hold_the_right_one() -> None:
    given = answer(Behaviour(wrong_answers=True), "ping", max_tokens=None, ignore_eos=False)
    assert "pong" not in given.text()
    assert len(given.text().split()) == Behaviour().tokens
