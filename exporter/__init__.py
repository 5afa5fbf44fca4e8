"""A Prometheus exporter that measures how fast models on Ollama really generate, per model and GPU."""

__version__ = "0.1.0"
