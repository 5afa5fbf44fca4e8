"""How the bodies of requests are parsed, and those of responses built."""

from typing import Any

import pytest

from exporter.embedded.messages import LONGEST_NS, parse_keep_alive
from exporter.embedded.values import OllamaError


@pytest.mark.parametrize(
    ("value", "nanoseconds"),
    [
        (None, None),
        (0, 0),
        ("0", 0),
        (1.5, 1_500_000_000),
        ("1h30m", 5_400_000_000_000),
        ("1.5s", 1_500_000_000),
        ("+2m", 120_000_000_000),
        ("10ms", 10_000_000),
        (-1, LONGEST_NS),
        ("-1s", LONGEST_NS),
    ],
)
def test_keep_alive_is_parsed_as_by_ollama(value: Any, nanoseconds: int | None) -> None:
    """Numbers are seconds, strings are Go durations, anything negative is the longest duration."""
    assert parse_keep_alive(value) == nanoseconds


@pytest.mark.parametrize("value", ["", "-", "soon", "5", "5 m", "5m x", "m", "--1s", "9999999h", [], True])
def test_an_invalid_keep_alive_is_refused(value: Any) -> None:
    """The status is 400."""
    with pytest.raises(OllamaError) as caught:
        parse_keep_alive(value)
    assert caught.value.status == 400
