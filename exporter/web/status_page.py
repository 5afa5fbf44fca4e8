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
from exporter.errors import REMEDIES, Reason
from exporter.reading import Reading, SkipReason
from exporter.state.model_state import ModelStatus

_SOURCE = files("exporter.web").joinpath("status_page.html").read_text(encoding="utf-8")
_TEMPLATE = Template(_SOURCE)
_STYLE = _SOURCE.partition("<style>")[2].partition("</style>")[0]

STYLE_HASH = "sha256-" + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
"""What a Content-Security-Policy allows the page's style by."""

_HEAD = (
    "<thead><tr><th>Model<th>GPU<th class=number>Decode<br>tokens/s<th class=number>Reference<br>words/s"
    "<th class=number>First token<br>seconds<th>State</tr></thead>"
)
_SKIPS = {
    SkipReason.UNLOADED: "the model is not loaded",
    SkipReason.OCCUPIED: "another model is loaded, which loading this one might evict",
}
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
    failing = sum(row.success is False for row in rows)
    return f"{len(rows)} {'model' if len(rows) == 1 else 'models'}, {live} with a live reading, {failing} failing"


def _row(row: ModelStatus, now: float) -> str:
    reading = row.reading
    cells = [
        f"<td><span class=name>{escape(row.pair.model)}</span><small>on {escape(row.pair.target)}</small>",
        f'<td class=gpu data-label="GPU">{escape(row.gpu)}' if row.gpu else f'<td class="gpu nothing">{NOTHING}',
        _number("Decode tokens/s", reading.decode_tokens_per_second if reading else None, _expected(row)),
        _number("Reference words/s", reading.tokens_per_second if reading else None),
        _number("First token (s)", reading.time_to_first_token_seconds if reading else None, digits=3),
        f"<td class=state>{_state(row, now)}",
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _number(label: str, value: float | None, note: str = "", *, digits: int = 1) -> str:
    if value is None:
        return f'<td class="number nothing">{NOTHING}'
    return f'<td class=number data-label="{label}"><b>{value:,.{digits}f}</b>{note}'


def _expected(row: ModelStatus) -> str:
    expected = row.expected_decode_tokens_per_second
    return "" if expected is None else f"<small>of {expected:,.1f}</small>"


def _state(row: ModelStatus, now: float) -> str:
    """Return what is known, then what of it is old, then why nothing newer is."""
    skipped = f"<small>last run skipped: {_SKIPS[row.skip]}</small>" if row.skip else ""
    if row.failure:
        return (
            f"<span class=bad>failing: {row.failure}</span>, {_ago(now, row.last_run)}"
            f"<small>{_remedy(row.failure)}</small>{_last_good(row, now)}{skipped}"
        )
    if row.reading is not None and row.age_seconds is not None:
        notes = "".join(f"<small>{note}</small>" for note in _notes(row.reading))
        return f"<span class=good>measured</span> {_span(row.age_seconds)} ago{notes}{skipped}"
    if row.success:
        return f"<span class=wait>withdrawn</span>: too old, or of another workload{_last_good(row, now)}{skipped}"
    return f"<span class=wait>not measured yet</span>{skipped}"


def _remedy(reason: Reason) -> str:
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(REMEDIES[reason]))


def _last_good(row: ModelStatus, now: float) -> str:
    return "" if row.last_success is None else f"<small>last good {_ago(now, row.last_success)}</small>"


def _notes(reading: Reading) -> list[str]:
    notes = []
    if reading.truncated:
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
