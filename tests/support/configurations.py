"""Configurations for tests, as a user writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from exporter.errors import SettingsError
from exporter.settings import Settings, load_settings


def load(
    directory: Path, text: str = "", *, flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Return the settings of a configuration file with this text, of these flags and of no other environment."""
    path = directory / "config.yml"
    path.write_text(dedent(text), encoding="utf-8")
    return load_settings(config_file=path if text else None, flags=flags or {}, environ=environ or {})


def mistakes(
    directory: Path, text: str = "", *, flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> list[str]:
    """Return the lines of the refusal of such a configuration, without the file's name before them."""
    with pytest.raises(SettingsError) as refusal:
        load(directory, text, flags=flags, environ=environ)
    prefix = f"{directory / 'config.yml'}: "
    return [line.removeprefix(prefix) for line in str(refusal.value).splitlines()]
