"""A running server and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from support.serving import Served


@pytest.fixture
def served() -> Served:
    """Return an empty state that can be served."""
    return Served()


@pytest.fixture
async def client(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of a running server."""
    async with served.client() as client:
        yield client
