"""Certificates of a test authority, and TLS servers that use them. `certificates/create.sh` created the files."""

from __future__ import annotations

import ssl
from pathlib import Path

FOLDER = Path(__file__).parent / "certificates"
CA = FOLDER / "ca.pem"
CLIENT = FOLDER / "client.pem"
SERVER = FOLDER / "server.pem"
"""A certificate and its key, as all files but that of the authority."""


def server_context(name: str = "server", *, client_required: bool = False) -> ssl.SSLContext:
    """Return the context of a server that shows a certificate, and requires one of its clients."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(FOLDER / f"{name}.pem")
    if client_required:
        context.load_verify_locations(CA)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
