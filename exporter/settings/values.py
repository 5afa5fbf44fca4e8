"""Types of single values: texts, numbers and durations.

The text of every ValueError is the problem, then the remedy as a sentence. `messages` puts the value between the two.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from string import Formatter
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from exporter.durations import Duration

NOT_UNICODE = "contains an unpaired surrogate, which is not valid Unicode. Write the complete character."
_Item = TypeVar("_Item")
_Value = TypeVar("_Value", bound=Hashable)


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number.")  # noqa: TRY004 - pydantic collects ValueErrors
    return value


def _positive(duration: Duration) -> Duration:
    if duration <= 0:
        raise ValueError("must be greater than 0s.")
    return duration


def _at_least_a_second(duration: Duration) -> Duration:
    if duration < 1:
        raise ValueError("must be 1s or longer. Use 5m on a dedicated server, 15m on a shared one.")
    return duration


def _measurable(num_predict: int) -> int:
    if num_predict in {0, -2}:
        raise ValueError("must be 16 or more, or -1. Ollama treats 0 and -2 as unlimited, so a probe might never end.")
    if num_predict < 16 and num_predict != -1:  # noqa: PLR2004 - the message gives it
        raise ValueError("must be 16 or more, or -1. Fewer tokens cannot be measured; with -1 the model decides.")
    return num_predict


def _with_question(template: str) -> str:
    try:
        fields = {
            (name, spec, conversion) for _, name, spec, conversion in Formatter().parse(template) if name is not None
        }
    except ValueError:
        fields = set()
    if fields != {("question", "", None)}:
        raise ValueError("must contain {question} and no other placeholder. Write {{ and }} for literal braces.")
    return template


def _valid_unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(NOT_UNICODE) from None
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty. Write a value, or remove the key.")
    return text


def _keep_alive(value: object) -> str | int | None:
    """Return what Ollama accepts, except 0, which would unload the model."""
    if value is None:
        return None
    text = str(value)
    if re.fullmatch(r"[+-]?[0-9]+", text, re.ASCII):
        kept: str | int = int(text)  # Ollama refuses a number in quotes
        seconds = Duration.parse(text.lstrip("+-") + "s")
    elif isinstance(value, str):
        kept = text
        seconds = Duration.parse(text.removeprefix("-"))
    else:
        raise ValueError(
            "must be a duration, a number of seconds or null. Examples: 5m, 300, -1 to keep the model loaded."
        )
    if not seconds:
        raise ValueError(
            "must not be 0. It would unload the model after each probe, also for its users. Write a longer duration, or"
            " null for the server's default."
        )
    return kept


def not_empty(values: tuple[_Item, ...]) -> tuple[_Item, ...]:
    """Return the values, or raise ValueError if there are none."""
    if not values:
        raise ValueError("must not be an empty list. Write at least one item, or remove the key.")
    return values


def first_repeated(values: Iterable[_Value]) -> _Value | None:
    """Return the first value that occurs for the second time, or None."""
    seen: set[_Value] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


Text = Annotated[str, AfterValidator(_valid_unicode), AfterValidator(_not_blank)]
Template = Annotated[str, AfterValidator(_valid_unicode), AfterValidator(_with_question)]
Integer = Annotated[int, BeforeValidator(_no_bool), Field(ge=-(2**31), le=2**31 - 1)]
Number = Annotated[float, BeforeValidator(_no_bool)]
NumPredict = Annotated[Integer, AfterValidator(_measurable)]
KeepAlive = Annotated[str | int | None, PlainValidator(_keep_alive)]
Timeout = Annotated[Duration, PlainValidator(Duration.parse), AfterValidator(_positive)]
Interval = Annotated[Duration, PlainValidator(Duration.parse), AfterValidator(_at_least_a_second)]
