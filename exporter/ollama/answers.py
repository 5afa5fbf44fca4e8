"""Bounds of a server's answer: its bytes, chunks and pieces, and how long it may keep the event loop busy."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx

from exporter.background import run_in_daemon_thread

JSON_BYTES_MAX = 2 * 2**20
"""`/api/tags` of 1,000 models has 0.5 MB, `/api/show` 0.1 MB."""
SHORT_BYTES_MAX = 64 * 2**10
"""Limit for the answers to loading and unloading, and for error bodies."""
STREAM_BYTES_MAX = 32 * 2**20
LINE_BYTES_MAX = 2**20
"""Ollama's longest line is the final chunk, whose `context` has 7 bytes for each token of prompt and answer."""
CHUNKS_MAX = 32_768
"""Where the model decides when to stop."""
CHUNKS_MORE = 64
"""How many more chunks than `num_predict` are accepted. Ollama sends at most one per token, and the final one."""
LARGE_JSON_BYTES = 64 * 2**10
"""JSON above this size is parsed in a thread."""

_STREAM_BYTES = 2 * 2**20
_CHUNK_BYTES = 2**8
"""How many bytes more a stream may have for each chunk: Ollama sends one token, the model's name and a time."""
_PIECES_MAX = 100_000
_PIECES_AT_ONCE = 32
_LINES_AT_ONCE = 8
_OTHER_LINE_ENDS = bytes.maketrans(b"\r\x0b\x0c\x1c\x1d\x1e", b"      ")
_WIDE_LINE_ENDS = (b"\xc2\x85", b"\xe2\x80\xa8", b"\xe2\x80\xa9")
"""httpx ends a line at each of these as well. JSON contains the former only as whitespace."""
_EXTENSION = "answer_limits"


@dataclass(frozen=True, slots=True)
class AnswerLimits:
    """The limits of an answer."""

    bytes_max: int
    chunks_max: int | None = None
    """Maximum number of chunks (lines) of a stream; None if the answer is a single JSON text."""

    @classmethod
    def of_stream(cls, num_predict: int) -> AnswerLimits:
        """Return the limits of a stream of at most `num_predict` tokens; -1 is any number of tokens."""
        chunks = CHUNKS_MAX if num_predict < 0 else num_predict + CHUNKS_MORE
        return cls(STREAM_BYTES_MAX, chunks)

    @property
    def extension(self) -> dict[str, AnswerLimits]:
        """The limits as the extension of an httpx request from which `body_of` takes them."""
        return {_EXTENSION: self}


JSON_LIMITS = AnswerLimits(JSON_BYTES_MAX)
SHORT_LIMITS = AnswerLimits(SHORT_BYTES_MAX)


class RefusedAnswerError(Exception):
    """An answer that is not read any further, a `protocol` failure."""

    def __init__(self, detail: str, remedy: str | None = None) -> None:
        super().__init__(detail)
        self.remedy = remedy


def body_of(response: httpx.Response, request: httpx.Request) -> httpx.AsyncByteStream:
    """Return the body of a response, bounded by the limits of its request.

    The body of an error is cut at its limit, and dropped if it is compressed, because its status is known. Raises
    `RefusedAnswerError` for any other compressed body: compression was not requested, and the decompressed size is
    unbounded.
    """
    stream = response.stream
    assert isinstance(stream, httpx.AsyncByteStream)  # noqa: S101 - an asynchronous transport returns one
    encoding = response.headers.get("content-encoding", "").strip().lower()
    compressed = encoding not in {"", "identity"}
    if response.is_success and compressed:
        raise RefusedAnswerError(
            f"the answer is compressed (Content-Encoding: {encoding})",
            "The exporter requests uncompressed answers. Turn off compression in the proxy in front of Ollama.",
        )
    if response.is_success:
        limits: AnswerLimits = request.extensions.get(_EXTENSION, SHORT_LIMITS)
        return _Chunks(stream, limits) if limits.chunks_max is not None else _Body(stream, limits)
    response.headers.pop("content-encoding", None)
    return _Body(stream, AnswerLimits(0 if compressed else SHORT_BYTES_MAX), may_cut=True)


async def parse_json(content: bytes) -> Any:
    """Return the value of a JSON text. Raises ValueError or RecursionError if it is not JSON."""
    if len(content) <= LARGE_JSON_BYTES:
        return json.loads(content)
    return await run_in_daemon_thread(lambda: json.loads(content), "parse an answer")


class _Body(httpx.AsyncByteStream):
    """A body of bounded length. A longer one ends at the limit if it `may_cut`."""

    def __init__(self, stream: httpx.AsyncByteStream, limits: AnswerLimits, *, may_cut: bool = False) -> None:
        self._stream = stream
        self._limits = limits
        self._may_cut = may_cut
        self._received_bytes = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces = 0
        async for data in self._stream:
            self._received_bytes += len(data)
            pieces += 1
            excess = self._received_bytes - self._limits.bytes_max
            if excess > 0 and self._may_cut:
                yield data[:-excess]
                return
            if excess > 0:
                raise RefusedAnswerError(f"the answer is longer than {self._limits.bytes_max} bytes")
            if pieces > _PIECES_MAX:
                raise RefusedAnswerError(f"the answer consists of more than {_PIECES_MAX} pieces")
            if pieces % _PIECES_AT_ONCE == 0:
                await asyncio.sleep(0)  # pieces that have arrived already are read without a pause
            yield data

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Chunks(_Body):
    """The body of a stream, in whole lines of bounded length and number.

    Other tasks run after a few lines, because LangChain copies the text that it has received so far for each one.
    """

    async def __aiter__(self) -> AsyncIterator[bytes]:
        chunks_max = self._limits.chunks_max or 0
        chunks = 0
        unfinished = bytearray()
        async for data in super().__aiter__():
            end = data.rfind(b"\n") + 1
            unfinished += data[:end] if end else data
            if not end:
                if len(unfinished) > LINE_BYTES_MAX:
                    raise _long_line()
                continue
            lines = bytes(unfinished).translate(_OTHER_LINE_ENDS)
            unfinished[:] = data[end:]
            chunks += _count_lines(lines)
            if chunks > chunks_max:
                raise RefusedAnswerError(
                    f"more than {chunks_max} chunks in one answer",
                    "The server generates more tokens than `num_predict` allows. Check that it is Ollama.",
                )
            if self._received_bytes > _STREAM_BYTES + chunks * _CHUNK_BYTES:
                raise RefusedAnswerError(f"{self._received_bytes} bytes in {chunks} chunks")
            async for piece in _in_turns(lines):
                yield piece
        if unfinished:
            yield await _shortened(bytes(unfinished).translate(_OTHER_LINE_ENDS))


def _count_lines(data: bytes) -> int:
    return data.count(b"\n") + sum(data.count(end) for end in _WIDE_LINE_ENDS)


async def _in_turns(lines: bytes) -> AsyncIterator[bytes]:
    """Yield whole lines, a few at a time, with a pause for other tasks between them."""
    if len(lines) <= LARGE_JSON_BYTES and _count_lines(lines) <= _LINES_AT_ONCE:
        yield lines
        return
    split = lines.split(b"\n")[:-1]
    for number, line in enumerate(split):
        if number % _LINES_AT_ONCE == 0:
            await asyncio.sleep(0)
        yield await _shortened(line) + b"\n"


async def _shortened(line: bytes) -> bytes:
    """Return a line, without lists and objects if it is long: the client would check each of their items."""
    if len(line) > LINE_BYTES_MAX:
        raise _long_line()
    if len(line) <= LARGE_JSON_BYTES:
        return line
    try:
        fields = await parse_json(line)
    except (ValueError, RecursionError):
        return line  # the client raises its own error
    if not isinstance(fields, dict):
        return line
    return json.dumps({name: value for name, value in fields.items() if not isinstance(value, list | dict)}).encode()


def _long_line() -> RefusedAnswerError:
    return RefusedAnswerError(f"a line is longer than {LINE_BYTES_MAX} bytes")
