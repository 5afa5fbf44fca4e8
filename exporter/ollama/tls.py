"""TLS for a target: the trusted authorities and the client certificate."""

from __future__ import annotations

import ssl
from functools import cache
from pathlib import Path

import httpx

from exporter.background import KeyedThreads
from exporter.errors import ProbeError, Reason
from exporter.logs import get_logger
from exporter.ollama.remedies import no_file_descriptors
from exporter.plan import TargetPlan

log = get_logger(__name__)

Versions = tuple[tuple[int, int, int], ...]
"""The inode, size and modification time of each file."""


class Tls:
    """The SSL context of a target. It is created again when a certificate file has changed."""

    def __init__(self, *, ca_file: Path | None, cert_file: Path | None, key_file: Path | None, verify: bool) -> None:
        self._ca_file = ca_file
        self._cert_file = cert_file
        self._key_file = key_file
        self._verify = verify
        self._files = tuple(file for file in (ca_file, cert_file, key_file) if file is not None)
        self._versions: Versions = ()
        self._unusable: Versions = ()
        self._context: ssl.SSLContext | None = None
        self._threads = KeyedThreads()

    async def context(self) -> ssl.SSLContext:
        """Return the context.

        While changed files cannot be used, for example while a certificate and its key are being replaced, the previous
        context is returned.
        Raises `ProbeError` if there is no previous context.
        """
        if self._context is not None and not self._files:
            return self._context
        return await self._threads.run("read", self._read, "read certificates")

    def _read(self) -> ssl.SSLContext:
        try:
            versions = tuple(_version(file) for file in self._files)
            if self._context is not None and versions in {self._versions, self._unusable}:
                return self._context
            try:
                self._context, self._versions = self._create(), versions
            except OSError:
                self._unusable = versions
                raise
        except OSError as error:  # ssl.SSLError is one
            files = ", ".join(map(str, self._files))
            if self._context is not None:
                log.warning("changed certificate files are not used", files=files, error=str(error))
            elif no_file_descriptors(error):
                raise
            else:
                remedy = "Correct the files of `tls` of this target."
                raise ProbeError(Reason.DENIED, f"{files}: {error.strerror or error}", remedy) from error
        return self._context

    def _create(self) -> ssl.SSLContext:
        if self._ca_file is not None:
            context = ssl.create_default_context(cafile=str(self._ca_file))
        else:
            context = httpx.create_ssl_context(verify=self._verify, trust_env=False)
        if self._cert_file is not None:
            context.load_cert_chain(self._cert_file, self._key_file, password=_no_password)
        return context


def _version(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _no_password() -> str:
    """Return no password for an encrypted key: OpenSSL would otherwise ask for one on the terminal."""
    return ""


def tls_of(plan: TargetPlan) -> Tls:
    """Return the TLS of a target, which targets with the same settings share: a context takes 28 ms and 0.5 MB."""
    return _shared_tls(plan.ca_file, plan.cert_file, plan.key_file, not plan.insecure_skip_verify)


@cache
def _shared_tls(ca_file: Path | None, cert_file: Path | None, key_file: Path | None, verify: bool) -> Tls:  # noqa: FBT001 - a key of the cache
    return Tls(ca_file=ca_file, cert_file=cert_file, key_file=key_file, verify=verify)
