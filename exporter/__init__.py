"""A Prometheus exporter that measures how fast models on Ollama really generate, per model and GPU."""

import os

__version__ = "0.1.0"

# LangSmith would upload every prompt and answer where these are set (facts: LangChain reads them at its import). This
# file is the one that is always imported before LangChain.
os.environ.update(
    dict.fromkeys(("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING", "LANGCHAIN_TRACING_V2"), "false")
)
