"""How metrics become text: lines cached per family and source, joined at the scrape, in the format that was asked for.

A scrape shares its event loop with the clock of running probes, so what it does there is short. prometheus_client's own
encoders take some 2.7 ms for a thousand series; here a sample line is written once, when its value changes.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache, lru_cache
from typing import Any, Generic, Literal, TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

log = logging.getLogger(__name__)

S = TypeVar("S")
Kind = Literal["gauge", "counter", "histogram", "info"]
Labels = Mapping[str, str]
Point = tuple[str, Labels, float]
"""What a family makes of a source: the sample's suffix, its labels beside the source's own, its value."""

_STEM = re.compile("_(total|info)$")
_UNIT = re.compile("_(seconds|joules|watts|hertz|celsius|ratio)$")
_OPENMETRICS_END = b"# EOF\n"


class Format(Enum):
    """A format of exposition that is served; the value is its content type."""

    TEXT = CONTENT_TYPE_PLAIN_0_0_4
    OPENMETRICS = openmetrics.CONTENT_TYPE_LATEST


@dataclass(frozen=True, slots=True)
class Points(Generic[S]):
    """How a family's samples come from a source of type S."""

    labels: tuple[str, ...]
    """The label names beside the source's own."""
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
    """Return the points of a family that only says labels."""
    return Points(labels, lambda source: [("", each, 1) for each in get(source)])


@dataclass(frozen=True, slots=True)
class Family(Generic[S]):
    """One metric: its name as Prometheus stores it, and how its samples come from a source of type S."""

    name: str
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
        """Return the family as prometheus_client knows it, without samples."""
        unit = _UNIT.search(self.stem)
        return Metric(self.stem, self.help, self.kind, unit[1] if unit and self.kind != "info" else "")

    def samples(self, labels: Labels, source: S) -> Iterator[Sample]:
        """Yield the points as prometheus_client's samples."""
        for suffix, own, value in self.points.of(source):
            encodable = {name: _encodable(text) for name, text in {**labels, **own}.items()}
            yield Sample(self.name + suffix, encodable, float(value))

    def lines(self, labels: str, source: S) -> bytes:
        """Return the points as lines, which are the same in both formats. `labels` are rendered already."""
        text = ""
        for suffix, own, value in self.points.of(source):
            more = write_labels(own)
            comma = "," if labels and more else ""
            text += f"{self.name}{suffix}{{{labels}{comma}{more}}} {number(value)}\n"
        return text.encode()


@lru_cache(1024)
def number(value: float) -> str:
    """Return a number as both formats write it."""
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call]
    return text


def _encodable(text: str) -> str:
    # JSON can carry a lone surrogate, which has no UTF-8: it would break every scrape.
    return text.encode(errors="replace").decode()


def write_labels(labels: Labels) -> str:
    """Return labels as both formats write them, without braces."""
    return ",".join([_label(name, value) for name, value in labels.items()])


@lru_cache(1024)
def _label(name: str, value: str) -> str:
    escaped = _encodable(value).replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return f'{name}="{escaped}"'


class Block(Generic[S]):
    """One source's lines, family by family, written once."""

    __slots__ = ("labels", "lines", "source")

    def __init__(self, families: Sequence[Family[S]], labels: Labels, source: S) -> None:
        self.labels = labels
        self.source = source
        written = write_labels(labels)
        self.lines = tuple(family.lines(written, source) for family in families)


class CachedMetric(Metric):
    """A family whose lines exist already. Its samples are made only for those who ask by the collector protocol."""

    def __init__(self, family: Family[Any], index: int, blocks: Sequence[Block[Any]]) -> None:
        self._family, self._index, self._blocks = family, index, blocks
        empty = _empty(family)  # checked once, not at each scrape
        self.name, self.documentation, self.type, self.unit = empty.name, empty.documentation, empty.type, empty.unit

    @property
    def samples(self) -> list[Sample]:  # type: ignore[override]
        """The samples, made anew."""
        return [sample for block in self._blocks for sample in self._family.samples(block.labels, block.source)]

    def parts(self, format_: Format) -> list[bytes]:
        """Return the lines of the family, its HELP, TYPE and UNIT first."""
        return [_header(self._family, format_), *[block.lines[self._index] for block in self._blocks]]


def assemble(families: Sequence[Family[S]], blocks: Sequence[Block[S]]) -> Iterator[CachedMetric]:
    """Yield the families of one group, but for those that no block has a sample of."""
    for index, family in enumerate(families):
        if any(block.lines[index] for block in blocks):
            yield CachedMetric(family, index, blocks)


class IsolatedCollector:
    """A collector that may fail: it then costs its own series, is reported once per outage, and counted each time."""

    def __init__(self, collector: Collector, failed: Callable[[str], None]) -> None:
        self._collector = collector
        self._failed = failed
        self._broken = False

    @property
    def name(self) -> str:
        """The class of the collector within."""
        return type(self._collector).__name__

    def describe(self) -> Iterable[Metric]:
        """Return the families that the collector says it has."""
        describe: Callable[[], Iterable[Metric]] = getattr(self._collector, "describe", list)
        return describe()

    def collect(self) -> Iterable[Metric]:
        """Return the collector's families, or none if it fails."""
        try:
            metrics = list(self._collector.collect())
        except Exception:
            self._failed(self.name)
            if not self._broken:
                log.exception("%s failed: its series are missing from this scrape and the following", self.name)
            self._broken = True
            return []
        self._broken = False
        return metrics


class _Batch:
    """Families on their way to one of prometheus_client's encoders."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def encode(metrics: Iterable[Metric], format_: Format) -> bytes:
    """Encode families by prometheus_client, without OpenMetrics' end mark."""
    batch: Any = _Batch(metrics)
    if format_ is Format.TEXT:
        return generate_latest(batch)
    encoded: bytes = openmetrics.generate_latest(batch)  # type: ignore[no-untyped-call]
    return encoded.removesuffix(_OPENMETRICS_END)


@cache
def _empty(family: Family[Any]) -> Metric:
    return family.metric()


@cache
def _header(family: Family[Any], format_: Format) -> bytes:
    return encode((family.metric(),), format_)


def render(registry: CollectorRegistry, format_: Format, names: frozenset[str] = frozenset()) -> bytes:
    """Return one exposition; with `names`, only the samples so named (what `name[]` asks for)."""
    parts: list[bytes] = []
    others: list[Metric] = []
    for metric in registry.collect():
        if isinstance(metric, CachedMetric):
            parts += metric.parts(format_)
        else:
            others.append(metric)
    parts.append(encode(others, format_))
    if names:
        parts = [_only(b"".join(parts), names)]
    if format_ is Format.OPENMETRICS:
        parts.append(_OPENMETRICS_END)
    return b"".join(parts)


def _only(text: bytes, names: frozenset[str]) -> bytes:
    kept: list[bytes] = []
    header: list[bytes] = []
    wanted = {name.encode(errors="replace") for name in names}
    for line in text.split(b"\n")[:-1]:
        if line.startswith(b"#"):
            header = [line] if line.startswith(b"# HELP ") else [*header, line]
        elif re.split(b"[{ ]", line, maxsplit=1)[0] in wanted:
            kept += [*header, line]
            header = []
    return b"".join(line + b"\n" for line in kept)
