"""Everything that speaks to an Ollama server."""
