"""How a connection is opened: the host name is resolved in a daemon thread, then its addresses are tried.

asyncio resolves names in a pool of few threads that all targets would share, and waits for them when it ends.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import Iterable, Iterator
from typing import Any

import httpcore

from exporter.background import KeyedThreads

NEXT_ADDRESS_SECONDS = 0.25
"""Pause before the next address is tried as well (RFC 8305), so that broken IPv6 does not cost the whole timeout."""


class NameNotResolvedError(httpcore.ConnectTimeout):
    """The resolver did not answer in time."""


class Network(httpcore.AsyncNetworkBackend):
    """Opens TCP connections within one timeout for resolving and connecting, for one target.

    Raises `httpcore.ConnectTimeout`, `httpcore.ConnectError` with the operating system's error as its cause, or
    OSError if this machine has no resources for a connection.
    """

    def __init__(self) -> None:
        self._tcp = httpcore.AnyIOBackend()
        self._lookups = KeyedThreads()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature is httpcore's
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Return a connection to the first address of a host that accepts one."""
        resolving = True
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._resolve(host, port)
                resolving = False
                return await self._connect_first(addresses, port, local_address, socket_options)
        except TimeoutError as error:
            if resolving:
                raise NameNotResolvedError(f"{host} was not resolved within {timeout:g} s") from error
            raise httpcore.ConnectTimeout(f"no answer within {timeout:g} s") from error

    async def sleep(self, seconds: float) -> None:
        """Sleep; httpcore calls this between retries."""
        await asyncio.sleep(seconds)

    async def _resolve(self, host: str, port: int) -> list[str]:
        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            return await self._lookups.run((host, port), lambda: resolve(host, port), f"resolve {host}")

    async def _connect_first(
        self, addresses: list[str], port: int, local_address: str | None, socket_options: Iterable[Any] | None
    ) -> httpcore.AsyncNetworkStream:
        """Return the first connection that succeeds, or raise the error of a failed one if none does."""
        if len(addresses) == 1:
            return await self._tcp.connect_tcp(
                addresses[0], port, local_address=local_address, socket_options=socket_options
            )
        untried = iter(addresses)
        attempts: set[asyncio.Task[httpcore.AsyncNetworkStream]] = set()
        errors: list[BaseException] = []
        try:
            while True:
                if address := next(untried, None):
                    connecting = self._tcp.connect_tcp(
                        address, port, local_address=local_address, socket_options=socket_options
                    )
                    attempts.add(asyncio.create_task(connecting))
                elif not attempts:
                    raise next(filter(_is_refusal, errors), errors[0])
                pause = NEXT_ADDRESS_SECONDS if address else None
                done, attempts = await asyncio.wait(attempts, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                errors += [error for attempt in done if (error := attempt.exception())]
                streams = [attempt.result() for attempt in done if not attempt.exception()]
                for unused in streams[1:]:
                    await unused.aclose()
                if streams:
                    return streams[0]
        finally:
            for attempt in attempts:
                attempt.cancel()
            for result in await asyncio.gather(*attempts, return_exceptions=True):
                if isinstance(result, httpcore.AsyncNetworkStream):
                    await result.aclose()


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host, in the order of the system's preference. Blocks.

    Raises OSError, `socket.gaierror` included.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror:
        os.close(os.open(os.devnull, os.O_RDONLY))  # without free file descriptors the resolver reports an unknown name
        raise
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and the exceptions that it was raised from."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def _is_refusal(error: BaseException) -> bool:
    return any(isinstance(cause, ConnectionRefusedError) for cause in causes(error))
