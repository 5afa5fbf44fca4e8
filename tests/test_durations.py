"""Durations are read and written as Go does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.durations import Duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("500ms", 0.5),
        ("700ms", 0.7),
        (".5s", 0.5),
        ("1.s", 1),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("250μs", 0.00025),
        ("3ns", 3e-9),
        ("1h1m1s1ms", 3661.001),
        ("1m1m", 120),
        (" 5m ", 300),
        ("0s", 0),
    ],
)
def test_go_durations_are_read(text: str, seconds: float) -> None:
    """Each unit, fractions and sums of parts have the same meaning as in Go."""
    assert Duration.parse(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "5", "5 m", "m", "5x", "1d", "-5m", "+5m", "1h30", "5M", ".s", "\u0665s", "1e3s", "5m\0"]
)
def test_other_texts_are_refused(text: str) -> None:
    """A text that Go does not accept, and a sign, raise an error with an example."""
    with pytest.raises(ValueError, match=r"not a duration.*1h30m"):
        Duration.parse(text)


@pytest.mark.parametrize("value", [5, 5.0])
def test_a_number_without_unit_is_refused(value: float) -> None:
    """A number could mean seconds or milliseconds, so a unit is required."""
    with pytest.raises(ValueError, match="unit"):
        Duration.parse(value)


def test_a_duration_beyond_the_maximum_of_go_is_refused() -> None:
    """Go counts nanoseconds in 63 bits, and Ollama is written in Go."""
    assert Duration.parse("2562047h") > 0
    with pytest.raises(ValueError, match="292 years"):
        Duration.parse("2562048h")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.25, "250ms"), (1, "1s"), (1.5, "1.5s"), (59.9996, "1m"), (60, "1m"), (90, "1m30s"), (5400, "1h30m")],
)
def test_durations_are_written_without_empty_parts(seconds: float, text: str) -> None:
    """The text of a duration omits parts that are zero, also in f-strings."""
    assert str(Duration(seconds)) == text
    assert f"{Duration(seconds)}" == text


@given(st.integers(min_value=0, max_value=10**9))
def test_a_written_duration_is_read_as_the_same(milliseconds: int) -> None:
    """Writing and reading keeps the value, to the millisecond."""
    seconds = milliseconds / 1000
    assert Duration.parse(str(Duration(seconds))) == pytest.approx(seconds, abs=1e-6)
