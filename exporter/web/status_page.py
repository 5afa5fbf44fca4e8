"""The landing page: the latest readings, as a person likes to read them."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template

from exporter import __version__
from exporter.reading import Reading
from exporter.state.model_state import ModelStatus

_SOURCE = files("exporter.web").joinpath("templates/status.html").read_text(encoding="utf-8")
_TEMPLATE = Template(_SOURCE)
_STYLE = _SOURCE.partition("<style>")[2].partition("</style>")[0]

STYLE_HASH = "sha256-" + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
"""What a Content-Security-Policy allows the page's style by."""

_HEAD = (
    "<thead><tr><th>Model<th>GPU<th class=number>Decode<br>tokens/s<th class=number>Reference<br>words/s"
    "<th class=number>First token<br>seconds<th>State</tr></thead>"
)
NOTHING = "&ndash;"
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def page(rows: Sequence[ModelStatus], telemetry_path: str, now: float) -> str:
    """Return the page. `now` is in Unix seconds; everything in `rows` may be hostile text."""
    table = "<p>No model is known yet: none is configured, or the servers have not been asked."
    if rows:
        body = "\n".join(_row(row, now) for row in rows)
        table = f"<table>{_HEAD}<tbody>\n{body}\n</tbody></table>"
    return _TEMPLATE.substitute(
        version=escape(__version__),
        link=escape(telemetry_path.lstrip("/")),  # relative: a proxy may serve this page under a prefix
        metrics=escape(telemetry_path),
        table=table,
        summary=_summary(rows),
    )


def _summary(rows: Sequence[ModelStatus]) -> str:
    live = sum(row.reading is not None for row in rows)
    failing = sum(row.state.success is False for row in rows)
    return f"{len(rows)} {'model' if len(rows) == 1 else 'models'}, {live} with a live reading, {failing} failing"


def _row(row: ModelStatus, now: float) -> str:
    reading = row.reading
    cells = [
        f"<td><span class=name>{escape(row.state.key.model)}</span><small>on {escape(row.state.key.target)}</small>",
        f'<td class=gpu data-label="GPU">{escape(row.gpu)}' if row.gpu else f'<td class="gpu nothing">{NOTHING}',
        _number("Decode tokens/s", reading.figures.decode_tokens_per_second if reading else None, _expected(row)),
        _number("Reference words/s", reading.figures.tokens_per_second if reading else None),
        _number("First token (s)", reading.figures.time_to_first_token_seconds if reading else None, digits=3),
        f"<td class=state>{_state(row, now)}",
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _number(label: str, value: float | None, note: str = "", *, digits: int = 1) -> str:
    if value is None:
        return f'<td class="number nothing">{NOTHING}'
    return f'<td class=number data-label="{label}"><b>{value:,.{digits}f}</b>{note}'


def _expected(row: ModelStatus) -> str:
    expected = row.state.plan.expected_decode_tokens_per_second
    return "" if expected is None else f"<small>of {expected:,.1f}</small>"


def _state(row: ModelStatus, now: float) -> str:
    """Return what is known, then what of it is old, then why nothing newer is."""
    skipped = f"<small>last run skipped: {_code(row.state.skip.text)}</small>" if row.state.skip else ""
    if row.state.failure:
        return (
            f"<span class=bad>failing: {row.state.failure.reason}</span>, {_ago(now, row.state.last_run)}"
            f"<small>{_code(row.state.failure.remedy)}</small>{_last_good(row, now)}{skipped}"
        )
    if row.reading is not None and row.age_seconds is not None:
        notes = "".join(f"<small>{note}</small>" for note in _notes(row.reading))
        return f"<span class=good>measured</span> {_span(row.age_seconds)} ago{notes}{skipped}"
    if row.state.success:
        return f"<span class=wait>withdrawn</span>: too old, or of another workload{_last_good(row, now)}{skipped}"
    return f"<span class=wait>not measured yet</span>{skipped}"


def _code(text: str) -> str:
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def _last_good(row: ModelStatus, now: float) -> str:
    return "" if row.state.last_success is None else f"<small>last good {_ago(now, row.state.last_success)}</small>"


def _notes(reading: Reading) -> list[str]:
    notes = []
    if reading.figures.truncated:
        notes.append("cut off before its end; rates by this program's clock")
    if others := [str(by) for by, seen in reading.contended.items() if seen]:
        notes.append(f"beside other work ({', '.join(others)})")
    if reading.model_gpu_ratio is not None and reading.model_gpu_ratio < 1:
        notes.append(f"{reading.model_gpu_ratio:.0%} of the model on the GPU, says Ollama")
    return notes


def _ago(now: float, then: float | None) -> str:
    return "never" if then is None else f"{_span(max(0.0, now - then))} ago"


def _span(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
