"""What a user may write, and what it means: flags, environment, YAML file."""

from exporter.settings.schema import Settings
from exporter.settings.sources import load_settings

__all__ = ["Settings", "load_settings"]
