"""The configuration: its schema, and loading it from flags, environment and YAML file."""

from exporter.settings.loading import load_settings
from exporter.settings.schema import Settings

__all__ = ["Settings", "load_settings"]
