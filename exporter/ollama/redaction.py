"""Secrets, and the removal of secrets from texts."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote

SECRET_CHARACTERS_MIN = 6
"""A shorter text is not a secret: replacing it would damage texts that contain it by chance."""
_PUBLIC_HEADERS = ("accept", "forwarded", "host", "origin", "referer", "user-agent", "x-forwarded-", "x-scope-orgid")
"""Beginnings of the names of headers whose values are not secret."""


class Secrets:
    """The secrets that were sent to one target, in every form in which a server or a library may print them."""

    def __init__(self) -> None:
        self._forms: list[str] = []
        """The longest one first, because a secret may contain another one."""

    def add(self, *secrets: str | None) -> None:
        """Add secrets. Texts of less than 6 characters are ignored."""
        new = {form for secret in secrets if secret for form in _forms(secret) if len(form) >= SECRET_CHARACTERS_MIN}
        if not new <= set(self._forms):
            self._forms = sorted(new.union(self._forms), key=len, reverse=True)

    def redact(self, text: str) -> str:
        """Return the text with every secret replaced. Call it before shortening: a cut secret is not recognised."""
        for form in self._forms:
            text = text.replace(form, "<secret>")
        return text


def secrets_in(headers: Mapping[str, str]) -> Iterator[str]:
    """Yield the values of headers, and their parts that may be quoted separately: token, cookie value, password.

    The user name of Basic credentials and headers that are public by their nature are not secrets.
    """
    for name, value in headers.items():
        if name.lower().startswith(_PUBLIC_HEADERS):
            continue
        scheme, _, credentials = value.partition(" ")
        yield from (value, *re.split(r"[\s,;=]+", value))
        if scheme.lower() == "basic":
            try:
                yield base64.b64decode(credentials).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                continue  # not valid Basic credentials: the server will refuse them


def _forms(secret: str) -> set[str]:
    """Return every spelling of a secret: plain, escaped as in JSON, Python and URLs, and with whitespace collapsed."""
    return {
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        repr(secret)[1:-1],
        repr(secret.encode())[2:-1],
        quote(secret),
        quote(secret, safe=""),
        " ".join(secret.split()),
    }
