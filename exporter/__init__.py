"""A Prometheus exporter that measures how fast models on Ollama really generate, per model and GPU."""

import os

__version__ = "0.1.0"

# LangChain reads these when it is imported. Set by a user for other programs, they would upload every prompt and answer
# to LangSmith. This module is always imported before LangChain.
os.environ.update(
    dict.fromkeys(("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING", "LANGCHAIN_TRACING_V2"), "false")
)
