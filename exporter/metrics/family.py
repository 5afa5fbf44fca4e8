"""What a metric family is: its name, type, labels and HELP, and how its samples come from a source."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, Literal, TypeVar

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

S = TypeVar("S")
Kind = Literal["gauge", "counter", "histogram", "info"]
Labels = Mapping[str, str]
Point = tuple[str, Labels, float]
"""One sample: its suffix, its labels in addition to the source's, and its value."""

LABEL_CHARACTERS_MAX = 200
"""Longer values are shortened: a server may send any text, and Prometheus stores it with every sample."""

_NAMES = {"target", "model"}
_STEM = re.compile("_(total|info)$")
_UNIT = re.compile("_(seconds|joules|watts|hertz|celsius|ratio)$")


@dataclass(frozen=True, slots=True)
class Points(Generic[S]):
    """How a family's samples come from a source of type S."""

    labels: tuple[str, ...]
    """The label names in addition to the source's."""
    of: Callable[[S], Iterable[Point]]


def one(get: Callable[[S], float | None]) -> Points[S]:
    """Return the points of a family with one sample per source, or none where its value is None."""

    def points(source: S) -> Iterable[Point]:
        value = get(source)
        return () if value is None else (("", {}, value),)

    return Points((), points)


def by(label: str, get: Callable[[S], Mapping[Any, float]]) -> Points[S]:
    """Return the points of a family with one sample for each entry, whose key is the label's value."""
    return Points((label,), lambda source: [("", {label: str(key)}, value) for key, value in get(source).items()])


def info(get: Callable[[S], Iterable[Labels]], *labels: str) -> Points[S]:
    """Return the points of a family whose samples are 1 and carry information in labels."""
    return Points(labels, lambda source: [("", each, 1) for each in get(source)])


@dataclass(frozen=True, slots=True)
class Family(Generic[S]):
    """One metric family whose samples come from sources of type S."""

    name: str
    """As Prometheus stores it, `_total` and `_info` included."""
    kind: Kind
    labels: tuple[str, ...]
    """The source's label names."""
    help: str
    points: Points[S]

    @property
    def stem(self) -> str:
        """The family's name in OpenMetrics: without `_total` or `_info`."""
        return _STEM.sub("", self.name) if self.kind in {"counter", "info"} else self.name

    def metric(self) -> Metric:
        """Return the family as prometheus_client represents it, without samples."""
        unit = _UNIT.search(self.stem)
        return Metric(self.stem, self.help, self.kind, unit[1] if unit and self.kind != "info" else "")

    @property
    def sample_names(self) -> frozenset[str]:
        """The names of its samples."""
        suffixes = ("_bucket", "_count", "_sum") if self.kind == "histogram" else ("",)
        return frozenset(self.name + suffix for suffix in suffixes)

    def samples(self, labels: Labels, source: S) -> Iterator[Sample]:
        """Yield the points as prometheus_client's samples."""
        for suffix, own, value in self.points.of(source):
            shown = {name: _shown(name, text) for name, text in {**labels, **own}.items()}
            yield Sample(self.name + suffix, shown, float(value))

    def lines(self, labels: str, source: S) -> bytes:
        """Return the points as lines, which are the same in both formats. `labels` have been formatted already."""
        text = ""
        for suffix, own, value in self.points.of(source):
            more = format_labels(own)
            both = f"{labels},{more}" if labels and more else labels or more
            braced = f"{{{both}}}" if both else ""
            text += f"{self.name}{suffix}{braced} {format_number(value)}\n"
        return text.encode()


@lru_cache(1024)
def format_number(value: float) -> str:
    """Return a number as both formats write it."""
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return text


def format_labels(labels: Labels) -> str:
    """Return labels as both formats write them, without braces."""
    return ",".join([_format_label(name, _shown(name, value)) for name, value in labels.items()])


@lru_cache(1024)
def _format_label(name: str, value: str) -> str:
    escaped = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return f'{name}="{escaped}"'


def _shown(name: str, value: str) -> str:
    """Return a label's value as it is exposed: of bounded length, and without lone surrogates.

    JSON can carry a lone surrogate, which has no UTF-8 encoding and would break every scrape. The names of targets and
    models come from the configuration, or were checked when they were discovered, and have to stay distinct.
    """
    if len(value) > LABEL_CHARACTERS_MAX and name not in _NAMES:
        value = value[: LABEL_CHARACTERS_MAX - 1] + "…"
    return value.encode(errors="replace").decode()
