"""How a simulated model behaves, as its version's own `simulated.json` states it: pure rules.

The file is the "weights" of a simulated model: two versions differ by nothing else. What a request
gets depends on the file, the prompt and the request's number only, so a run can be repeated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from itertools import islice
from zlib import crc32

from slipway.core.errors import InputError

FILE_NAME = "simulated.json"

DEFAULT_ANSWERS: Mapping[str, str] = {
    "ping": "pong",
    "marco": "polo",
    "knock knock": "who's there?",
    "What is the capital of France?": "The capital of France is Paris.",
    "What is two plus two?": "Two plus two is 4.",
    "What colour is the sky?": "The sky is blue.",
}
"""What a healthy simulated model knows when its file names no answers."""

LONGEST_ANSWER_TOKENS = 1_000_000

_SENTENCE = (
    "the sea is wide and calm today while small boats sail home before night and gulls cry over "
    "grey stones where water turns to foam under a pale moon far from any town"
)
_WORDS = tuple(_SENTENCE.split())
_NONSENSE = ("blorp", "quux", "zindle", "frob", "wug", "snark", "dax", "toma")
_BITS_64 = 0xFFFF_FFFF_FFFF_FFFF


class Fate(StrEnum):
    """How a request is made to end."""

    ANSWER = "answer"
    ERROR = "error"
    TRUNCATE = "truncate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """The content of `simulated.json`; every key is optional.

    Args:
        ttft_ms: from the request's last byte to its first token.
        gap_ms: between two tokens.
        jitter_percent: each of the two is varied evenly by ± this much.
        error_rate_percent: requests answered by HTTP 500.
        truncate_rate_percent: requests whose connection is closed in the middle of the answer.
        crash_after_s: the process ends with exit code 1 this long after its start; None never.
        crash_on_start: exit code of a server that ends before it listens; 0 does not.
        start_delay_s: health says 503 for this long.
        never_ready: health says 503 for ever.
        wrong_answers: every prompt is answered with nonsense.
        answers: prompt → answer; prompts are compared without case and outer space.
        tokens: length of an answer to a prompt that is not in `answers`.
        seed: of all that looks random.
    """

    ttft_ms: float = 20.0
    gap_ms: float = 5.0
    jitter_percent: float = 0.0
    error_rate_percent: float = 0.0
    truncate_rate_percent: float = 0.0
    crash_after_s: float | None = None
    crash_on_start: int = 0
    start_delay_s: float = 0.0
    never_ready: bool = False
    wrong_answers: bool = False
    answers: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_ANSWERS))
    tokens: int = 16
    seed: int = 0


def parse_behaviour(text: str) -> Behaviour:
    """Return the behaviour that the JSON object `text` states.

    Raises:
        InputError: not a JSON object, an unknown key, or a value of the wrong kind or out of range;
            names every problem at once (`simulated-file-invalid`).
    """
    try:
        stated = json.loads(text)
    except ValueError as error:
        raise _invalid([f"not JSON: {error}"]) from error
    if not isinstance(stated, dict):
        raise _invalid(["it must hold one JSON object"])
    known = {entry.name for entry in fields(Behaviour)}
    problems = [
        f"unknown key {key!r} (known: {', '.join(sorted(known))})"
        for key in stated
        if key not in known
    ]
    problems += [
        problem
        for key, value in stated.items()
        if key in known and (problem := _problem(key, value))
    ]
    rates = (stated.get("error_rate_percent", 0), stated.get("truncate_rate_percent", 0))
    if not problems and sum(rates) > 100:
        problems.append("error_rate_percent and truncate_rate_percent exceed 100 together")
    if problems:
        raise _invalid(problems)
    return Behaviour(**{**stated, "crash_on_start": int(stated.get("crash_on_start", 0))})


def _invalid(problems: list[str]) -> InputError:
    return InputError(
        f"{FILE_NAME} of the model version is invalid: {'; '.join(problems)}",
        code="simulated-file-invalid",
        hint=f"mend {FILE_NAME} and register the model again",
    )


_FLAGS = frozenset({"never_ready", "wrong_answers"})
_WHOLE = frozenset({"crash_on_start", "tokens", "seed"})
_RANGES: Mapping[str, tuple[float, float]] = {
    "crash_on_start": (0, 255),
    "tokens": (1, LONGEST_ANSWER_TOKENS),
    "seed": (-(2**63), 2**63),
    "jitter_percent": (0, 100),
    "error_rate_percent": (0, 100),
    "truncate_rate_percent": (0, 100),
}
_LONGEST_TIME = 1e9
"""Upper bound of every duration, so that infinity is refused."""


def _problem(key: str, value: object) -> str | None:
    if key in _FLAGS:
        return None if isinstance(value, bool) else f"{key} must be true or false"
    if key == "answers":
        strings = isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
        return None if strings else "answers must map prompts to answers, both text"
    if key == "crash_after_s" and value is None:
        return None
    return _number_problem(key, value)


def _number_problem(key: str, value: object) -> str | None:
    wanted = int if key in _WHOLE else (int, float)
    # JSON's true is a Python int; as an exit code it is welcome and means 1.
    if not isinstance(value, int | float) or not isinstance(value, wanted):
        return f"{key} must be a {'whole ' if key in _WHOLE else ''}number"
    if isinstance(value, bool) and key != "crash_on_start":
        return f"{key} must be a {'whole ' if key in _WHOLE else ''}number"
    least, most = _RANGES.get(key, (0, _LONGEST_TIME))
    return None if least <= value <= most else f"{key} must be within {least:g}..{most:g}"


def uniform(seed: int, number: int, draw: int) -> float:
    """Return a number in [0, 1) that depends on the three arguments only (splitmix64)."""
    state = (seed * 0x9E37_79B9_7F4A_7C15 + number * 0xBF58_476D_1CE4_E5B9 + draw + 1) & _BITS_64
    state = (state + 0x9E37_79B9_7F4A_7C15) & _BITS_64
    state = ((state ^ (state >> 30)) * 0xBF58_476D_1CE4_E5B9) & _BITS_64
    state = ((state ^ (state >> 27)) * 0x94D0_49BB_1331_11EB) & _BITS_64
    return (state ^ (state >> 31)) / 2.0**64


def fate(behaviour: Behaviour, number: int) -> Fate:
    """Return how request `number` is made to end."""
    lot = uniform(behaviour.seed, number, 0) * 100
    if lot < behaviour.error_rate_percent:
        return Fate.ERROR
    if lot < behaviour.error_rate_percent + behaviour.truncate_rate_percent:
        return Fate.TRUNCATE
    return Fate.ANSWER


def delay_s(behaviour: Behaviour, number: int, token: int) -> float:
    """Return the time before token `token` (0 is the first) of request `number`, in seconds."""
    base_ms = behaviour.gap_ms if token else behaviour.ttft_ms
    if behaviour.jitter_percent:
        swing = 2 * uniform(behaviour.seed, number, 2 + token) - 1
        base_ms *= 1 + behaviour.jitter_percent / 100 * swing
    return base_ms / 1000


def cut_after(behaviour: Behaviour, number: int, tokens: int) -> int:
    """Return after how many of `tokens` a truncated request is cut: ≥ 1, if it can < `tokens`."""
    return 1 + int(uniform(behaviour.seed, number, 1) * max(1, tokens - 1))


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says to a prompt.

    Args:
        pieces: the tokens of the known part.
        length: tokens in all; what `pieces` lacks is filled up (`ignore_eos`).
        finish_reason: `stop`, or `length` when the limit cut it.
    """

    pieces: tuple[str, ...]
    length: int
    finish_reason: str

    def token(self, index: int) -> str:
        """Return token `index` with its leading space."""
        if index < len(self.pieces):
            return self.pieces[index]
        return f" {_WORDS[index % len(_WORDS)]}"

    def text(self) -> str:
        """Return the whole answer."""
        return "".join(self.token(index) for index in range(self.length))


def answer(
    behaviour: Behaviour, prompt: str, *, max_tokens: int | None, ignore_eos: bool
) -> Answer:
    """Return the answer to `prompt`: at most `max_tokens`; with `ignore_eos`, just that many."""
    pieces = _pieces(_reply(behaviour, prompt))
    limit = len(pieces) if max_tokens is None else max_tokens
    if ignore_eos and max_tokens is not None:
        return Answer(pieces[:limit], limit, "length")
    if len(pieces) > limit:
        return Answer(pieces[:limit], limit, "length")
    return Answer(pieces, len(pieces), "stop")


def _reply(behaviour: Behaviour, prompt: str) -> str:
    start = crc32(prompt.encode(), behaviour.seed & 0xFFFF_FFFF)
    if behaviour.wrong_answers:
        return " ".join(_cycle(_NONSENSE, start, behaviour.tokens))
    wanted = prompt.strip().casefold()
    for known, reply in behaviour.answers.items():
        if known.strip().casefold() == wanted:
            return reply
    return " ".join(_cycle(_WORDS, start, behaviour.tokens))


def _cycle(words: tuple[str, ...], start: int, count: int) -> list[str]:
    first = start % len(words)
    repeated = (words[(first + step) % len(words)] for step in range(count))
    return list(islice(repeated, count))


def _pieces(text: str) -> tuple[str, ...]:
    """Split into tokens: words, each but the first with its leading space."""
    words = text.split() or [""]
    return (words[0], *(f" {word}" for word in words[1:]))
