"""Secrets are removed from texts, and nothing else is."""

from __future__ import annotations

from support.probing import target_plan

from exporter.ollama.auth import TargetAuth


def redact(text: str, **target: object) -> str:
    """Return a text as it is shown for a target."""
    return TargetAuth(target_plan("http://h:1", **target)).redact(text)


def test_user_names_and_short_values_stay() -> None:
    """A user name `e` would otherwise damage every message."""
    text = "no answer to the ollama server of team gpu"

    assert redact(text, username="ollama", password="a") == text
    assert redact(text, username="e", password="team") == text
    assert redact(text, headers={"X-Team": "gpu", "X-Scope-OrgID": "server", "Host": "ollama:11434"}) == text


def test_passwords_and_header_values_are_redacted() -> None:
    """The longest one first, so that no part of it remains."""
    headers = {"X-Key": "secret-key", "Cookie": "session=secret-key-2"}

    assert redact("a secret-key, a secret-key-2", headers=headers) == "a <secret>, a <secret>"
    assert redact("a pass-word", username="u", password="pass-word") == "a <secret>"
    assert redact("a pass-word", headers={"Authorization": "Basic dTpwYXNzLXdvcmQ="}) == "a <secret>"
