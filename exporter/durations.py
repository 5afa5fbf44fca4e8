"""Durations as Go writes them: `30s`, `5m`, `1h30m`, `1.5h`, `500ms`.

They are parsed here because Prometheus and Ollama are configured with Go durations, and Python's standard library has
no parser for them.
"""

from __future__ import annotations

import re
from fractions import Fraction

_UNITS = {
    "h": Fraction(3600),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 10**3),
    "us": Fraction(1, 10**6),
    "µs": Fraction(1, 10**6),  # the micro sign
    "μs": Fraction(1, 10**6),
    "ns": Fraction(1, 10**9),
}
_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(" + "|".join(sorted(_UNITS, key=len, reverse=True)) + ")")
_MAX_SECONDS = Fraction(2**63 - 1, 10**9)
_REMEDY = "Write a number with a unit, for example 30s, 5m or 1h30m."


class Duration(float):
    """A length of time in seconds. Its text is a Go duration: `str(Duration(5400))` is `1h30m`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: object) -> Duration:
        """Return the duration of a text in the grammar of Go's `time.ParseDuration`, without a sign.

        Raises ValueError. Its text is the problem, then the remedy as a sentence.
        """
        if isinstance(text, cls):
            return text
        if isinstance(text, int | float) and not isinstance(text, bool):
            raise ValueError(f"number without a unit. {_REMEDY}")  # noqa: TRY004 - pydantic collects ValueErrors
        if not isinstance(text, str) or not re.fullmatch(f"(?:{_PART.pattern})+", text.strip(), re.ASCII):
            raise ValueError(f"not a duration. {_REMEDY}")
        seconds = sum((Fraction(number) * _UNITS[unit] for number, unit in _PART.findall(text)), Fraction())
        if seconds > _MAX_SECONDS:
            raise ValueError("longer than 292 years, the maximum of a Go duration. Write a shorter duration.")
        return cls(seconds)

    def __str__(self) -> str:
        if self < 1:
            return f"{self * 1000:g}ms" if self else "0s"
        minutes, seconds = divmod(round(float(self), 3), 60)
        hours, minutes = divmod(int(minutes), 60)
        parts = ((hours, "h"), (minutes, "m"), (round(seconds, 3), "s"))
        return "".join(f"{number:g}{unit}" for number, unit in parts if number)
