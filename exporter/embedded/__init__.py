"""A server that speaks Ollama's API, for the demo and the tests: one protocol layer, a scripted and a real engine."""
