"""The HTML status page: the last reading of each model, its age, and why a probe failed or was skipped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from exporter import __version__
from exporter.state.model_state import ModelStatus

if TYPE_CHECKING:
    from jinja2 import Template

_SOURCE = files("exporter.web").joinpath("templates/status.html").read_text(encoding="utf-8")
_STYLE = _SOURCE.partition("<style>")[2].partition("</style>")[0]

STYLE_HASH = "sha256-" + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
"""The Content-Security-Policy allows only the style with this hash."""

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def render_status_page(statuses: Sequence[ModelStatus], telemetry_path: str, now: float) -> str:
    """Return the page. `now` is in Unix seconds. All texts in `statuses` are escaped."""
    return _template().render(
        version=__version__,
        telemetry_path=telemetry_path,
        statuses=statuses,
        reading_count=sum(status.reading is not None for status in statuses),
        failing_count=sum(status.state.success is False for status in statuses),
        now=now,
    )


@cache
def _template() -> Template:
    """Return the parsed template. Jinja is imported for the first page, so that no scrape waits for the import."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["duration"] = format_duration
    return environment.from_string(_SOURCE)


def format_duration(seconds: float) -> str:
    """Return a duration in its largest whole unit, such as `3 min`; negative ones are 0 s."""
    for unit_seconds, unit in _UNITS:
        if seconds >= unit_seconds:
            return f"{seconds / unit_seconds:.0f} {unit}"
    return "0 s"
