"""An answer's worth."""

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
    """Return an answer whose chunks came at a steady pace, the first after 50 ms."""
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


def test_a_finished_answer_is_measured_by_the_servers_own_counts() -> None:
    """Rate is eval_count / eval_duration; queue is what total leaves over; words are split by whitespace."""
    figures = evaluate(answer(final=FINAL))

    assert figures.decode_tokens_per_second == pytest.approx(32 / 1.58)
    assert (figures.output_tokens, figures.prompt_tokens, figures.words) == (32, 30, 32)
    assert figures.stages is not None
    assert figures.stages.queue_seconds == pytest.approx(0.010)
    assert figures.time_to_first_token_seconds == pytest.approx(0.046)
    assert figures.elapsed_seconds == pytest.approx(0.05 + 31 / 20 + 0.01)
    assert not figures.truncated


def test_words_hold_the_thinking_too() -> None:
    """Thinking is work of the GPU as well: its words count."""
    assert evaluate(answer(final=FINAL, thinking="let me see")).words == 35


def test_a_repeated_chunk_lowers_the_distinct_ratio() -> None:
    """A GPU that answers the same token over and over is not healthy, and the ratio says so."""
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
        ({"eval_duration": 1_580_000}, Reason.PROTOCOL),  # microseconds for nanoseconds
        ({"eval_duration": 60_000_000_000, "total_duration": 61_000_000_000}, Reason.PROTOCOL),
        ({"total_duration": 2**70}, Reason.PROTOCOL),
        ({"load_duration": float("nan")}, Reason.PROTOCOL),
        ({"prompt_eval_duration": []}, None),  # empty as absent: Go omits a zero
    ],
)
def test_a_final_chunk_that_cannot_be_true_is_no_reading(final: dict[str, Any], reason: Reason | None) -> None:
    """Counts and durations that are missing, negative, absurd or contradicted by the client's clock are refused."""
    if reason is None:
        evaluate(answer(final=FINAL | final))
        return
    with pytest.raises(ProbeError) as caught:
        evaluate(answer(final=FINAL | final))
    assert caught.value.reason is reason
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("chunks", "pace", "waited", "cut", "reason"),
    [
        (0, 1.0, 5.0, True, Reason.NO_FIRST_TOKEN),
        (0, 1.0, 5.0, False, Reason.PROTOCOL),
        (15, 2.0, 0.5, True, Reason.TIMEOUT),
        (15, 2.0, 0.5, False, Reason.PROTOCOL),
        (40, 1e6, 0.5, False, Reason.PROTOCOL),  # a proxy held them back: no rate at all
        (40, 20.0, 2.5, True, Reason.STALLED),
        (40, 0.4, 26.0, True, Reason.STALLED),
        (16, 2.0, 0.5, True, None),
        (40, 0.4, 24.0, True, None),  # ten times the median gap of 2.5 s
        (40, 20.0, 1.9, True, None),
        (40, 20.0, 60.0, False, None),  # ended cleanly, however late it was noticed
    ],
)
def test_a_stream_without_a_final_chunk_is_a_reading_only_while_it_flows(
    chunks: int, pace: float, waited: float, cut: bool, reason: Reason | None
) -> None:
    """At least 16 chunks, and flowing at the deadline or ended cleanly; else the reason says which way it failed."""
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


def test_a_cut_stream_that_was_thinking_has_no_words() -> None:
    """Thinking text comes with the final chunk only: without it the words are unknown, not fewer."""
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
def test_whatever_comes_is_a_finite_reading_or_a_reason(
    final: dict[str, Any] | None, gaps: list[float], texts: str, cut: bool, late: float
) -> None:
    """No field, size, type or timing makes the judgement crash, or return a number that is no finite, unsigned one."""
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
    assert 0 <= figures.distinct_chunks_ratio <= 1
