"""TLS towards a server: client certificates, and files that change."""

from __future__ import annotations

import contextlib
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.certificates import CA, CLIENT, FOLDER, server_context
from support.hostile_answers import GOOD_CHUNK, GOOD_FINAL, generating, json_line
from support.probing import model_plan, probing, target_plan
from support.raw_server import RawServer

from exporter.errors import ProbeError, Reason
from exporter.ollama.client import OllamaClient
from exporter.ollama.error_mapping import map_errors
from exporter.reading import Reading


@contextlib.asynccontextmanager
async def tls_server(*, client_required: bool = True) -> AsyncIterator[str]:
    """Run a server with TLS and yield its URL."""
    server = RawServer(generating(json_line(GOOD_CHUNK) * 20 + json_line(GOOD_FINAL)))
    await server.start(server_context(client_required=client_required))
    try:
        yield server.url
    finally:
        await server.stop()


async def test_a_server_that_requires_a_certificate_is_probed() -> None:
    """Every request shows it, the measured one included. The key may be in the same file or in another one."""
    async with tls_server() as url:
        for key_file in (None, CLIENT):
            async with probing(url, ca_file=CA, cert_file=CLIENT, key_file=key_file) as prober:
                assert isinstance(await prober.probe(model_plan()), Reading)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_without_a_certificate_the_setting_is_named(version: ssl.TLSVersion) -> None:
    """With TLS 1.2 the server ends the connection in the handshake, with TLS 1.3 after it, with or without an alert."""
    context = server_context(client_required=True)
    context.maximum_version = version
    server = RawServer(generating(b""))
    await server.start(context)
    async with OllamaClient(target_plan(server.url, ca_file=CA)) as client:
        with pytest.raises(ProbeError) as caught:
            await client.version()
    await server.stop()

    assert "cert_file" in caught.value.remedy


def test_a_handshake_that_only_ends_names_the_setting() -> None:
    """The connection can end before the server's alert is read."""
    with pytest.raises(ProbeError) as caught, map_errors(target_plan("https://gpu-a:443"), str):
        raise ssl.SSLEOFError(8, "TLS/SSL connection has been closed (EOF)")

    assert "cert_file" in caught.value.remedy


async def test_changed_files_are_read_again(tmp_path: Path) -> None:
    """A renewed certificate or authority needs no restart. While the files are unusable, the former ones are used."""
    ca, client_file = tmp_path / "ca.pem", tmp_path / "client.pem"
    shutil.copy(FOLDER / "other-host.pem", ca)
    shutil.copy(CLIENT, client_file)

    async def version(url: str) -> Any:
        async with OllamaClient(target_plan(url, ca_file=ca, cert_file=client_file)) as client:
            return await client.version()

    async with tls_server() as url:
        with pytest.raises(ProbeError):
            await version(url)
        shutil.copy(CA, ca)
        assert await version(url) == "0.33.0"
        client_file.write_text("half written")
        assert await version(url) == "0.33.0"
        client_file.unlink()
        assert await version(url) == "0.33.0"


async def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    """They were checked when the configuration was loaded, and have changed since."""
    (tmp_path / "client.pem").write_text("no certificate")
    plan = target_plan("https://127.0.0.1:9", ca_file=CA, cert_file=tmp_path / "client.pem")
    async with OllamaClient(plan) as client:
        with pytest.raises(ProbeError) as caught:
            await client.version()

    assert caught.value.reason is Reason.DENIED
    assert "client.pem" in caught.value.detail
    assert "tls" in caught.value.remedy
