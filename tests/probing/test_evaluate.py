"""Evaluation of answers: the figures of a good one, the reason of one that measured nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.errors import ProbeError, Reason
from exporter.probing.evaluate import evaluate
from exporter.reading import Answer

FINAL = {
    "done": True,
    "done_reason": "length",
    "total_duration": 1_600_000_000,
    "load_duration": 2_000_000,
    "prompt_eval_count": 30,
    "prompt_eval_duration": 8_000_000,
    "eval_count": 32,
    "eval_duration": 1_580_000_000,
}


def answer(chunks: int = 32, pace: float = 20.0, final: dict[str, Any] | None = None, **changes: Any) -> Answer:
    """Return an answer whose chunks arrived at a steady pace, the first after 50 ms."""
    times = tuple(100.05 + index / pace for index in range(chunks))
    fields: dict[str, Any] = {
        "started_at": 100.0,
        "sent_at": 100.004,
        "ended_at": (times[-1] if times else 100.0) + 0.01,
        "chunk_times": times,
        "chunk_texts": tuple(f" w{index}" for index in range(chunks)),
        "final": final,
        "thinking": "",
        "cut": False,
    }
    return Answer(**(fields | changes))


def test_a_finished_answer_is_measured_by_the_servers_counts() -> None:
    """The rate is eval_count / eval_duration, the queue time is what remains of total; words split by whitespace."""
    figures = evaluate(answer(final=FINAL))

    assert figures.decode_tokens_per_second == pytest.approx(32 / 1.58)
    assert (figures.output_tokens, figures.prompt_tokens, figures.words) == (32, 30, 32)
    assert figures.stages is not None
    assert figures.stages.queue_seconds == pytest.approx(0.010)
    assert figures.time_to_first_token_seconds == pytest.approx(0.046)
    assert figures.elapsed_seconds == pytest.approx(0.05 + 31 / 20 + 0.01)
    assert not figures.truncated


def test_words_include_the_thinking() -> None:
    """The GPU generates it as it does the answer."""
    assert evaluate(answer(final=FINAL, thinking="let me see")).words == 35


def test_repeated_chunks_lower_the_distinct_ratio() -> None:
    """A model that repeats one token is broken although it is fast."""
    assert evaluate(answer(final=FINAL, chunk_texts=("/",) * 32)).distinct_chunks_ratio == 1 / 32


@pytest.mark.parametrize(
    ("final", "reason"),
    [
        ({"eval_count": 15}, Reason.SHORT),
        ({"eval_count": 0, "done_reason": "load"}, Reason.SHORT),
        ({"eval_count": -3}, Reason.PROTOCOL),
        ({"eval_count": True}, Reason.PROTOCOL),
        ({"eval_count": "32"}, Reason.PROTOCOL),
        ({"eval_duration": 0}, Reason.PROTOCOL),
        ({"eval_duration": -1}, Reason.PROTOCOL),
        ({"eval_duration": 1000}, Reason.PROTOCOL),
        ({"eval_duration": 1_580_000}, Reason.PROTOCOL),  # microseconds instead of nanoseconds
        ({"eval_duration": 60_000_000_000, "total_duration": 61_000_000_000}, Reason.PROTOCOL),
        ({"total_duration": 2**70}, Reason.PROTOCOL),
        ({"load_duration": float("nan")}, Reason.PROTOCOL),
        ({"prompt_eval_duration": []}, None),  # empty counts as missing: Go omits a zero
    ],
)
def test_a_final_chunk_that_cannot_be_true_is_refused(final: dict[str, Any], reason: Reason | None) -> None:
    """So are counts and durations that are missing, negative, absurd or contradicted by the client's clock."""
    if reason is None:
        evaluate(answer(final=FINAL | final))
        return
    with pytest.raises(ProbeError) as caught:
        evaluate(answer(final=FINAL | final))
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("chunks", "pace", "waited", "cut", "reason"),
    [
        (0, 1.0, 5.0, True, Reason.NO_FIRST_TOKEN),
        (0, 1.0, 5.0, False, Reason.PROTOCOL),
        (15, 2.0, 0.5, True, Reason.TIMEOUT),
        (15, 2.0, 0.5, False, Reason.PROTOCOL),
        (40, 1e6, 0.5, False, Reason.PROTOCOL),  # a proxy buffered them
        (40, 20.0, 2.5, True, Reason.STALLED),
        (40, 0.4, 26.0, True, Reason.STALLED),
        (16, 2.0, 0.5, True, None),
        (40, 0.4, 24.0, True, None),  # ten times the median gap of 2.5 s
        (40, 20.0, 1.9, True, None),
        (40, 20.0, 60.0, False, None),  # ended cleanly, however late it was noticed
    ],
)
def test_a_stream_without_a_final_chunk_is_a_reading_only_if_it_was_flowing(
    chunks: int, pace: float, waited: float, cut: bool, reason: Reason | None
) -> None:
    """It needs 16 chunks, and must flow at the deadline or have ended cleanly."""
    given_answer = answer(chunks, pace, cut=cut)
    last = given_answer.chunk_times[-1] if chunks else 100.0
    given_answer = answer(chunks, pace, cut=cut, ended_at=last + waited)

    if reason is None:
        figures = evaluate(given_answer)
        assert figures.truncated
        assert figures.decode_tokens_per_second == pytest.approx(pace)
        assert figures.elapsed_seconds == pytest.approx(last - 100.0)
        assert (figures.output_tokens, figures.stages) == (None, None)
        assert figures.words == chunks
    else:
        with pytest.raises(ProbeError) as caught:
            evaluate(given_answer)
        assert caught.value.reason is reason


def test_a_cut_stream_with_thinking_has_no_words() -> None:
    """The text of thinking arrives with the final chunk, so without it the number of words is unknown."""
    assert evaluate(answer(40, cut=True, chunk_texts=("",) * 20 + (" w",) * 20)).words is None


_numbers = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=2)
)


@given(
    final=st.one_of(st.none(), st.fixed_dictionaries({}, optional=dict.fromkeys(FINAL, _numbers))),
    gaps=st.lists(st.floats(0, 1000), max_size=80),
    texts=st.sampled_from(["", " a", "b\n"]),
    cut=st.booleans(),
    late=st.floats(0, 1000),
)
def test_any_answer_gives_finite_figures_or_a_reason(
    final: dict[str, Any] | None, gaps: list[float], texts: str, cut: bool, late: float
) -> None:
    """No field, type or timing raises anything but a ProbeError."""
    times, now = [], 100.004
    for gap in gaps:
        now += gap
        times.append(now)
    try:
        figures = evaluate(
            answer(
                final=final, chunk_times=tuple(times), chunk_texts=(texts,) * len(times), ended_at=now + late, cut=cut
            )
        )
    except ProbeError:
        return
    numbers = [figures.elapsed_seconds, figures.decode_tokens_per_second, figures.time_to_first_token_seconds]
    assert all(math.isfinite(number) and number >= 0 for number in numbers)
    assert figures.decode_tokens_per_second <= 100_000
    assert 0 <= figures.distinct_chunks_ratio <= 1


@pytest.mark.parametrize(("done_reason", "shown"), [("stop", "stop"), ("a secret", "unknown"), (["stop"], "unknown")])
def test_only_done_reasons_of_ollama_are_repeated(done_reason: object, shown: str) -> None:
    """Other text of a server could hold anything, a secret that it was sent included."""
    with pytest.raises(ProbeError) as caught:
        evaluate(answer(final=FINAL | {"eval_count": 3, "done_reason": done_reason}))

    assert caught.value.detail.endswith(shown)
    assert "secret" not in caught.value.detail


def test_a_buffered_stream_names_the_proxy() -> None:
    """The general remedy of `protocol` would not help."""
    with pytest.raises(ProbeError) as caught:
        evaluate(answer(40, 1e6))

    assert "proxy" in caught.value.remedy
