"""What every other test relies on."""

from __future__ import annotations

import os
import socket

import pytest

LEAKY = ("LANGSMITH", "LANGCHAIN", "OLLAMA", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
KEPT = "OLLAMA_CONTRACT_"


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "example.com"])
def test_resolves_no_other_machine(host: str) -> None:
    """A test that asks for another machine fails as it would without a name server."""
    with pytest.raises(socket.gaierror, match="tests resolve no other machine's name"):
        socket.create_connection((host, 80), timeout=1)


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")])
def test_connects_to_no_other_machine(family: socket.AddressFamily, host: str) -> None:
    """A test that would talk to another machine fails as it would without a network."""
    with socket.socket(family) as client, pytest.raises(OSError, match="tests connect to loopback only"):
        client.connect((host, 80))


def test_inherits_no_setting() -> None:
    """Nothing of the developer's environment reaches the program under test, which itself sets tracing to false."""
    inherited = {name: value for name, value in os.environ.items() if name.startswith(LEAKY) and value != "false"}
    assert {name for name in inherited if not name.startswith(KEPT)} == set()
