"""A server that sends bytes as they are, in any pieces and with any framing."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self


@dataclass(frozen=True)
class RawAnswer:
    """An answer: its bytes, how they are cut into pieces, where they end, and what then happens to the connection."""

    status: bytes = b"200 OK"
    headers: tuple[bytes, ...] = ()
    body: bytes = b"{}"
    pieces: tuple[int, ...] = ()
    """Sizes of the first pieces; the rest is one piece."""
    cut: int | None = None
    """Number of bytes after which the answer ends."""
    framing: str = "length"
    """`length`, `chunked`, `close`, or `wrong_length`."""
    flood: bytes = b""
    """Sent after the body again and again, until the client closes the connection."""
    hold: bool = False
    """Whether the connection is kept open without sending; otherwise it is closed."""

    def __iter__(self) -> Iterator[bytes]:
        """Yield the pieces."""
        framing = {
            "length": b"Content-Length: %d" % len(self.body),
            "wrong_length": b"Content-Length: %d" % (len(self.body) + 7),
            "chunked": b"Transfer-Encoding: chunked",
            "close": b"Connection: close",
        }[self.framing]
        body = self.body
        if self.framing == "chunked":
            body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in self._split(body)) + b"0\r\n\r\n"
        head = b"\r\n".join([b"HTTP/1.1 " + self.status, *self.headers, framing])
        yield from self._split((head + b"\r\n\r\n" + body)[: self.cut])

    def _split(self, data: bytes) -> Iterator[bytes]:
        for size in self.pieces:
            if data[:size]:
                yield data[:size]
            data = data[size:]
        if data:
            yield data


@dataclass
class RawServer:
    """Sends the given bytes for each path."""

    answers: Mapping[str, RawAnswer] = field(default_factory=dict)
    url: str = ""
    _server: asyncio.Server | None = None
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        """Begin to listen."""
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0, ssl=tls)
        host, port = self._server.sockets[0].getsockname()
        self.url = f"{'https' if tls else 'http'}://{host}:{port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Stop listening and close all connections."""
        assert self._server is not None
        self._server.close()
        self.close_connections()
        await self._server.wait_closed()

    def close_connections(self) -> None:
        """Close the connections that are kept open."""
        for writer in list(self._open):
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            _, _, length = head.partition("content-length: ")
            if length:
                await reader.readexactly(int(length.partition("\r\n")[0]))
            sent = self.answers[head.split()[1]]
            for piece in sent:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            while sent.flood:
                writer.write(sent.flood)
                await writer.drain()
                await asyncio.sleep(0)
            if sent.hold:
                await reader.read()
        self._open.discard(writer)
        writer.close()
