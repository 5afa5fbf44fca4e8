"""What an answer is worth: the figures of a good one, or the reason why it is none. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from statistics import median
from typing import Any

from exporter.errors import Reason
from exporter.ollama.error_mapping import probe_error
from exporter.reading import Answer, Figures, Stages

TOKENS_MIN = 16
"""Fewer tokens are no measurement: `eval_count / eval_duration` reads 7 % high at 16, and worse below."""
FLOWING_SECONDS = 2.0
FLOWING_GAPS = 10
"""A stream still flows when its last gap is at most two seconds, or ten times its median gap."""
QUEUE_SECONDS = 0.25
"""An idle server's residual is 2-6 ms, 50 ms after a load; more means that another request held the slot."""

_SHOWN_CHARACTERS_MAX = 40
_NANOSECONDS = 1e9
_DURATION_MAX = 10**15  # ns, eleven days: no request lasts so long
_RATE_MAX = 100_000.0  # tokens/s that no hardware reaches: a server that says so does not measure


def evaluate(answer: Answer) -> Figures:
    """Return the figures of a good answer; raise `ProbeError` for one that measured nothing."""
    return _finished(answer, answer.final) if answer.final is not None else _truncated(answer)


def _count_words(answer: Answer) -> int:
    return len(answer.text.split()) + len(answer.thinking.split())


def _distinct_ratio(answer: Answer) -> float:
    texts = [text for text in answer.chunk_texts if text]
    return len(set(texts)) / len(texts) if texts else 1.0


def _whole(final: Mapping[str, Any], name: str, most: int) -> int:
    """Return a count or a duration of the final chunk; absent is 0, as Go omits it."""
    value = final.get(name) or 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        shown = str(value)[:_SHOWN_CHARACTERS_MAX] if isinstance(value, int | float) else f"as {type(value).__name__}"
        raise probe_error(Reason.PROTOCOL, f"the final chunk says {name} {shown}")
    return value


def _finished(answer: Answer, final: Mapping[str, Any]) -> Figures:
    output_tokens = _whole(final, "eval_count", 10**9)
    if output_tokens < TOKENS_MIN:
        done_reason = str(final.get("done_reason"))
        shown = repr(done_reason) if len(done_reason) <= _SHOWN_CHARACTERS_MAX else "too long to be one"
        raise probe_error(Reason.SHORT, f"{output_tokens} tokens, done_reason {shown}")
    elapsed_seconds = answer.ended_at - answer.started_at
    total, load, prefill, decode = (
        _whole(final, f"{stage}_duration", _DURATION_MAX) / _NANOSECONDS
        for stage in ("total", "load", "prompt_eval", "eval")
    )
    _check_decode(answer, output_tokens, decode, elapsed_seconds)
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
        prompt_tokens=_whole(final, "prompt_eval_count", 10**9) or None,
        time_to_first_token_seconds=first_at - answer.sent_at,
        stages=stages,
        truncated=False,
        distinct_chunks_ratio=_distinct_ratio(answer),
    )


def _check_decode(answer: Answer, output_tokens: int, decode: float, elapsed_seconds: float) -> None:
    """Refuse a decode time that the client's own clock shows to be impossible."""
    remedy = "is this really Ollama? Other servers that speak its API leave durations out or make them up"
    said = f"the final chunk says {output_tokens} tokens in {decode:g} s"
    if decode <= 0 or output_tokens / decode > _RATE_MAX:
        raise probe_error(Reason.PROTOCOL, said, remedy)
    if decode > 1.05 * elapsed_seconds + 0.1:
        raise probe_error(Reason.PROTOCOL, f"{said}, but the whole request took {elapsed_seconds:.3g} s", remedy)
    if len(answer.chunk_times) >= TOKENS_MIN:
        seen = answer.chunk_times[-1] - answer.chunk_times[0]
        if seen > 3 * decode + 0.5:
            raise probe_error(Reason.PROTOCOL, f"{said}, but they took {seen:.3g} s to arrive", remedy)


def _truncated(answer: Answer) -> Figures:
    times = answer.chunk_times
    waited = answer.ended_at - answer.started_at
    if not times:
        if answer.cut:
            raise probe_error(Reason.NO_FIRST_TOKEN, f"nothing came within {waited:.3g} s")
        raise probe_error(Reason.PROTOCOL, "the answer ended without a token and without a final chunk")
    seen = times[-1] - times[0]
    if answer.cut:
        gap, typical = answer.ended_at - times[-1], median(b - a for a, b in pairwise(times)) if len(times) > 1 else 0.0
        if gap > max(FLOWING_SECONDS, FLOWING_GAPS * typical):
            raise probe_error(Reason.STALLED, f"nothing came for {gap:.3g} s after {len(times)} chunks")
        if len(times) < TOKENS_MIN:
            raise probe_error(Reason.TIMEOUT, f"{len(times)} chunks within {waited:.3g} s")
    if len(times) < TOKENS_MIN or seen <= 0:
        raise probe_error(Reason.PROTOCOL, f"the answer ended after {len(times)} chunks without a final chunk")
    rate = (len(times) - 1) / seen
    if rate > _RATE_MAX:
        raise probe_error(
            Reason.PROTOCOL, f"{len(times)} chunks came at once and no final chunk: something held them back"
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
        distinct_chunks_ratio=_distinct_ratio(answer),
    )
