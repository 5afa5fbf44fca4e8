"""Evaluation of an answer: its figures, or the reason why it measured nothing. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from statistics import median
from typing import Any

from exporter.errors import ProbeError, Reason
from exporter.reading import Answer, Figures, Stages

TOKENS_MIN = 16
"""Fewer tokens measure nothing: n tokens span n-1 intervals, so `eval_count / eval_duration` reads 7 % high at 16."""
FLOWING_SECONDS = 2.0
FLOWING_GAPS = 10
"""A stream is flowing if its last gap is at most `FLOWING_SECONDS`, or `FLOWING_GAPS` times its median gap."""

_TOKENS_MAX = 10**9
_NANOSECONDS_MAX = 10**15
"""Eleven days: no request lasts as long."""
_NANOSECONDS_PER_SECOND = 1e9
_RATE_MAX = 100_000.0
"""Tokens per second. No hardware is that fast, so a higher rate is not a measurement."""
_NUMBER_CHARACTERS_MAX = 40
_DONE_REASONS = {"stop", "length", "load", "unload"}
"""The values that Ollama sends. Any other text is not shown, because it may contain a secret."""
_DURATIONS_REMEDY = "Check that `url` is an Ollama server. Some servers that imitate its API omit or invent durations."


def evaluate(answer: Answer) -> Figures:
    """Return the figures of an answer. Raises `ProbeError` if it measured nothing."""
    return _evaluate_finished(answer, answer.final) if answer.final is not None else _evaluate_truncated(answer)


def _evaluate_finished(answer: Answer, final: Mapping[str, Any]) -> Figures:
    output_tokens = _integer(final, "eval_count", _TOKENS_MAX)
    if output_tokens < TOKENS_MIN:
        done_reason = final.get("done_reason")
        shown = done_reason if isinstance(done_reason, str) and done_reason in _DONE_REASONS else "unknown"
        raise ProbeError(Reason.SHORT, f"{output_tokens} tokens, done_reason {shown}")
    elapsed_seconds = answer.ended_at - answer.started_at
    total, load, prefill, decode = (
        _integer(final, f"{stage}_duration", _NANOSECONDS_MAX) / _NANOSECONDS_PER_SECOND
        for stage in ("total", "load", "prompt_eval", "eval")
    )
    _check_decode_seconds(answer, output_tokens, decode, elapsed_seconds)
    first_at = answer.chunk_times[0] if answer.chunk_times else answer.ended_at
    stages = None
    if total > 0:
        stages = Stages(
            queue_seconds=max(total - load - prefill - decode, 0.0),
            load_seconds=load,
            prefill_seconds=prefill,
            decode_seconds=decode,
        )
    return Figures(
        words=_count_words(answer),
        elapsed_seconds=elapsed_seconds,
        decode_tokens_per_second=output_tokens / decode,
        output_tokens=output_tokens,
        prompt_tokens=_integer(final, "prompt_eval_count", _TOKENS_MAX) or None,
        time_to_first_token_seconds=first_at - answer.sent_at,
        stages=stages,
        truncated=False,
        distinct_chunks_ratio=_distinct_chunks_ratio(answer),
    )


def _evaluate_truncated(answer: Answer) -> Figures:
    times = answer.chunk_times
    waited = answer.ended_at - answer.started_at
    if not times:
        if answer.cut:
            raise ProbeError(Reason.NO_FIRST_TOKEN, f"no token within {waited:.3g} s")
        raise ProbeError(Reason.PROTOCOL, "the answer ended without a token and without a final chunk")
    if answer.cut:
        _check_flowing(answer, waited)
    seconds = times[-1] - times[0]
    if len(times) < TOKENS_MIN or seconds <= 0:
        raise ProbeError(Reason.PROTOCOL, f"the answer ended after {len(times)} chunks without a final chunk")
    rate = (len(times) - 1) / seconds
    if rate > _RATE_MAX:
        raise ProbeError(
            Reason.PROTOCOL,
            f"{len(times)} chunks arrived at once, without a final chunk",
            "Check for a proxy that buffers the answer.",
        )
    thinking_lost = not all(answer.chunk_texts)
    return Figures(
        words=None if thinking_lost else _count_words(answer),
        elapsed_seconds=times[-1] - answer.started_at,
        decode_tokens_per_second=rate,
        output_tokens=None,
        prompt_tokens=None,
        time_to_first_token_seconds=times[0] - answer.sent_at,
        stages=None,
        truncated=True,
        distinct_chunks_ratio=_distinct_chunks_ratio(answer),
    )


def _check_decode_seconds(answer: Answer, output_tokens: int, decode_seconds: float, elapsed_seconds: float) -> None:
    """Raise if the reported decode time is impossible, in itself or by this machine's clock."""
    reported = f"the final chunk reports {output_tokens} tokens in {decode_seconds:g} s"
    if decode_seconds <= 0 or output_tokens / decode_seconds > _RATE_MAX:
        raise ProbeError(Reason.PROTOCOL, reported, _DURATIONS_REMEDY)
    if decode_seconds > 1.05 * elapsed_seconds + 0.1:
        detail = f"{reported}, but the whole request took {elapsed_seconds:.3g} s"
        raise ProbeError(Reason.PROTOCOL, detail, _DURATIONS_REMEDY)
    if len(answer.chunk_times) >= TOKENS_MIN:
        seconds = answer.chunk_times[-1] - answer.chunk_times[0]
        if seconds > 3 * decode_seconds + 0.5:
            detail = f"{reported}, but they took {seconds:.3g} s to arrive"
            raise ProbeError(Reason.PROTOCOL, detail, _DURATIONS_REMEDY)


def _check_flowing(answer: Answer, waited: float) -> None:
    """Raise if a stream that was cut at the deadline had stalled, or was too slow for a reading."""
    times = answer.chunk_times
    gap = answer.ended_at - times[-1]
    median_gap = median(later - earlier for earlier, later in pairwise(times)) if len(times) > 1 else 0.0
    if gap > max(FLOWING_SECONDS, FLOWING_GAPS * median_gap):
        raise ProbeError(Reason.STALLED, f"nothing arrived for {gap:.3g} s after {len(times)} chunks")
    if len(times) < TOKENS_MIN:
        raise ProbeError(Reason.TIMEOUT, f"{len(times)} chunks within {waited:.3g} s")


def _integer(final: Mapping[str, Any], name: str, maximum: int) -> int:
    """Return a count or a duration of the final chunk. Missing means 0, because Go omits zeros."""
    value = final.get(name) or 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= maximum:
        shown = str(value)[:_NUMBER_CHARACTERS_MAX] if isinstance(value, int | float) else f"as {type(value).__name__}"
        raise ProbeError(Reason.PROTOCOL, f"the final chunk reports {name} {shown}")
    return value


def _count_words(answer: Answer) -> int:
    return len(answer.text.split()) + len(answer.thinking.split())


def _distinct_chunks_ratio(answer: Answer) -> float:
    texts = [text for text in answer.chunk_texts if text]
    return len(set(texts)) / len(texts) if texts else 1.0
