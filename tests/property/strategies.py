"""Hypothesis strategies for the core's values."""

from __future__ import annotations

from hypothesis import strategies as st

from slipway.core.release.record import (
    FORWARD,
    Digests,
    Phase,
    ReleaseRecord,
    StageVerdict,
    advance,
    begin,
    with_candidate,
    with_verdict,
)
from slipway.core.rollout import PodObservation, RolloutObservation
from slipway.core.routing import Preview, Route, Share, Slot
from slipway.core.verdicts import Bound, Evidence, Gate, Verdict
from tests.examples import IMAGE, record

slots = st.sampled_from(list(Slot))
# Lone surrogates are no text: JSON cannot carry them to the API server.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
tokens = st.text("0123456789abcdef", min_size=1, max_size=64)
times_ns = st.integers(min_value=0, max_value=4_000_000_000_000_000_000)


@st.composite
def shares(draw: st.DrawFn) -> tuple[Share, ...]:
    """Draw a legal division of the users: nobody, one slot, or both."""
    first = draw(slots)
    percent = draw(st.integers(1, 100))
    if draw(st.booleans()):
        return ()
    if percent == 100:
        return (Share(slot=first, percent=100),)
    return (Share(slot=first, percent=percent), Share(slot=first.other, percent=100 - percent))


@st.composite
def routes(draw: st.DrawFn) -> Route:
    """Draw any legal route of service `chat`."""
    divided = draw(shares())
    preview = draw(st.none() | st.builds(Preview, slot=slots, token=tokens))
    named = {share.slot for share in divided} | ({preview.slot} if preview else set())
    warm = draw(st.frozensets(slots))
    return Route(service="chat", shares=divided, preview=preview, subsets=warm | named)


verdicts = st.builds(
    StageVerdict,
    stage=texts,
    verdict=st.sampled_from(list(Verdict)),
    reasons=st.lists(texts, max_size=3).map(tuple),
    evidence_key=texts,
)


@st.composite
def histories(draw: st.DrawFn) -> list[Phase]:
    """Draw the phases that a release may go through after its request."""
    following = list(FORWARD[1 : draw(st.integers(1, len(FORWARD)))])
    if draw(st.booleans()) and following[-1:] != [Phase.DONE]:
        following += [Phase.ROLLING_BACK, Phase.ROLLED_BACK][: draw(st.integers(1, 2))]
    return following


@st.composite
def ended_histories(draw: st.DrawFn) -> list[Phase]:
    """Draw the phases of a release that is over."""
    reached = FORWARD[1 : draw(st.integers(1, len(FORWARD)))]
    if reached[-1:] == (Phase.DONE,):
        return list(reached)
    return [*reached, Phase.ROLLING_BACK, Phase.ROLLED_BACK]


any_history = histories()


@st.composite
def records(draw: st.DrawFn, phases: st.SearchStrategy[list[Phase]] = any_history) -> ReleaseRecord:
    """Draw a record that went through `phases`, by default at any point of a release."""
    current = record(str(draw(st.integers(1, 99))), now_ns=draw(times_ns))
    following = draw(phases)
    for phase in following:
        current = advance(current, phase, reason=draw(texts), now_ns=draw(times_ns))
    for verdict in draw(st.lists(verdicts, max_size=3)):
        current = with_verdict(current, verdict)
    if draw(st.booleans()):
        current = with_candidate(current, image=IMAGE)
    return begin(current, draw(texts))


digests = st.builds(Digests, image=texts, weights=texts, config=texts, chat_template=texts)

pods = st.builds(
    PodObservation,
    name=st.sampled_from(["a", "b", "c", "d"]),
    uid=st.uuids().map(str),
    ready=st.booleans(),
    restarts=st.integers(0, 3),
    waiting_reason=st.none()
    | st.sampled_from(["ContainerCreating", "CrashLoopBackOff", "ImagePullBackOff"]),
    unschedulable_s=st.none() | st.floats(0, 60),
    terminating=st.booleans(),
)


@st.composite
def rollouts(draw: st.DrawFn) -> RolloutObservation:
    """Draw a Deployment whose counts agree with its pods, as the controller's do."""
    found = tuple(draw(st.lists(pods, max_size=4)))
    staying = [pod for pod in found if not pod.terminating]
    ready = sum(pod.ready for pod in staying)
    generation = draw(st.integers(1, 5))
    return RolloutObservation(
        name="chat-blue",
        uid="uid",
        resource_version="1",
        generation=generation,
        observed_generation=draw(st.integers(1, generation)),
        desired=draw(st.integers(1, 4)),
        replicas=len(staying),
        updated=draw(st.integers(0, len(staying))),
        available=draw(st.integers(0, ready)),
        pods=found,
        replica_failure=draw(st.none() | st.just("exceeded quota")),
        replica_failure_s=draw(st.floats(0, 60)),
        deadline_exceeded=draw(st.booleans()),
    )


gates = st.builds(
    Gate,
    name=st.just("gate"),
    evidence=st.sampled_from(["x_ms", "y_ms"]),
    bound=st.sampled_from(list(Bound)),
    threshold=st.floats(allow_nan=False, allow_infinity=False),
    n_min=st.integers(1, 50),
)

evidence = st.builds(
    Evidence,
    name=st.sampled_from(["x_ms", "y_ms"]),
    value=st.floats(),
    unit=st.just("ms"),
    n=st.integers(0, 100),
    window_s=st.just(1.0),
    source=st.just("benchmark"),
    taken_at_ns=times_ns,
)
