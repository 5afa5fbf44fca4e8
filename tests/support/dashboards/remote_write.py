"""A client for Prometheus' remote-write receiver, which can also write stale markers."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import cache

import httpx
from support import programs

STALE: float = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]
"""Prometheus' stale marker: the series ends here."""
Series = tuple[dict[str, str], list[tuple[float, float]]]
"""Labels, and samples as (Unix seconds, value)."""


def remote_write(prometheus: programs.Prometheus, series: Sequence[Series]) -> None:
    """Write series to a running Prometheus. Backfilled blocks cannot hold stale markers, remote write can."""
    body = b"".join(_encode_field(1, _encode_series(labels, samples)) for labels, samples in series)
    url = f"{prometheus.url}/api/v1/write"
    headers = {"Content-Encoding": "snappy", "Content-Type": "application/x-protobuf"}
    headers["X-Prometheus-Remote-Write-Version"] = "0.1.0"
    answer = httpx.post(url, content=_encode_snappy(body), headers=headers, **programs.PLAIN, timeout=60)
    assert answer.is_success, answer.text


def _encode_series(labels: dict[str, str], samples: Sequence[tuple[float, float]]) -> bytes:
    """Return a `prometheus.TimeSeries`: labels (1: name 1, value 2) and samples (2: value 1, milliseconds 2)."""
    names = (
        _encode_field(1, _encode_field(1, name.encode()) + _encode_field(2, value.encode()))
        for name, value in sorted(labels.items())
    )
    values = (b"\x12\x10\x09" + struct.pack("<d", value) + _encode_time(at) for at, value in samples)
    return b"".join(names) + b"".join(values)


@cache
def _encode_time(at: float) -> bytes:
    """Return a sample's second field, its time in milliseconds."""
    return b"\x10" + _encode_varint(round(at * 1000))


def _encode_field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _encode_varint(len(content)) + content


def _encode_varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _encode_snappy(content: bytes) -> bytes:
    """Return content as a snappy block of literals, uncompressed."""
    parts = (content[at : at + 65536] for at in range(0, len(content), 65536))
    return _encode_varint(len(content)) + b"".join(b"\xf4" + struct.pack("<H", len(part) - 1) + part for part in parts)
