"""Field options: thresholds, colours, value mappings and the properties of overrides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grafana_foundation_sdk.builders.dashboard import FieldColor, ThresholdsConfig
from grafana_foundation_sdk.models.dashboard import (
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)

COLOR_BY_THRESHOLDS = FieldColor().mode(FieldColorModeId.THRESHOLDS)
COLORED_TEXT = {"type": "color-text"}
COLORED_BACKGROUND = {"type": "color-background", "mode": "basic"}
"""The cell types of a table whose colour depends on the value."""


def build_thresholds(*steps: tuple[float | None, str]) -> ThresholdsConfig:
    """Return absolute thresholds from (lower limit, colour) steps; the first step's limit is None."""
    thresholds = [Threshold(value=limit, color=color) for limit, color in steps]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(thresholds)


def use_one_color(color: str) -> FieldColor:
    """Return the option that draws every series of a panel in one colour."""
    return FieldColor().mode(FieldColorModeId.FIXED).fixed_color(color)


def fix_color(color: str) -> dict[str, str]:
    """Return the value of an override's property `color`."""
    return {"mode": "fixed", "fixedColor": color}


def list_properties(**values: Any) -> list[DynamicConfigValue]:
    """Return the properties of an override; two underscores stand for a dot, as in `custom__width`."""
    return [DynamicConfigValue(id_val=name.replace("__", "."), value=value) for name, value in values.items()]


def map_values(texts: Mapping[str, tuple[str, str]]) -> ValueMap:
    """Return a mapping from values to their (text, colour)."""
    results = {value: ValueMappingResult(text=text, color=color) for value, (text, color) in texts.items()}
    return ValueMap(options=results)
