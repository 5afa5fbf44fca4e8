"""Values of Ollama's API."""

from exporter.embedded.values import Model, rfc3339


def test_times_are_written_as_go_does() -> None:
    """UTC, at most nine decimals, without trailing zeros."""
    assert rfc3339(1_795_532_847_000_000_000) == "2026-11-24T15:07:27Z"
    assert rfc3339(1_795_532_847_120_000_000) == "2026-11-24T15:07:27.12Z"
    assert rfc3339(1_795_532_847_000_000_001) == "2026-11-24T15:07:27.000000001Z"


def test_a_model_has_one_full_name() -> None:
    """Only a missing tag is added; a port of a registry is not a tag."""
    assert Model("llama3.1").full_name == "llama3.1:latest"
    assert Model("qwen3:8b").full_name == "qwen3:8b"
    assert Model("registry:5000/m").full_name == "registry:5000/m:latest"
    assert Model("llama3.1").sha256 == Model("llama3.1:latest").sha256 != Model("qwen3:8b").sha256
