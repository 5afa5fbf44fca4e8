"""Bodies that are being sent."""

from __future__ import annotations

import asyncio
import contextlib
from typing import cast
from unittest.mock import Mock

from exporter.web.responses import BodyResponse, HeldBodies


def hold(held: HeldBodies, stack: contextlib.ExitStack, body: bytes) -> Mock:
    """Hold a body for a new response and return its connection."""
    transport = Mock(spec=asyncio.Transport)
    stack.enter_context(held.hold(cast("BodyResponse", object()), body, transport))
    return transport


def test_the_oldest_responses_are_closed_beyond_the_limit() -> None:
    """The new response always stays, even if it is larger than the limit by itself."""
    held = HeldBodies(250)
    with contextlib.ExitStack() as stack:
        first, second, third = [hold(held, stack, bytes(100 + number)) for number in range(3)]
        assert [transport.abort.called for transport in (first, second, third)] == [True, False, False]

        fourth = hold(held, stack, bytes(1000))
        assert [transport.abort.called for transport in (second, third, fourth)] == [True, True, False]


def test_a_shared_body_counts_once() -> None:
    """However many clients are sent one body, none is closed."""
    held, body = HeldBodies(250), bytes(200)
    with contextlib.ExitStack() as stack:
        transports = [hold(held, stack, body) for _ in range(50)]
        assert not any(transport.abort.called for transport in transports)

        other = hold(held, stack, bytes(201))
        assert all(transport.abort.called for transport in transports)
        assert not other.abort.called


def test_bodies_that_have_been_sent_do_not_count() -> None:
    """One after the other, any number of bodies is sent."""
    held = HeldBodies(250)
    for _ in range(5):
        with contextlib.ExitStack() as stack:
            assert not hold(held, stack, bytes(200)).abort.called
