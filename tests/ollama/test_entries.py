"""What Ollama says about its models: real answers, and answers that Ollama does not give."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.ollama.entries import ModelFile, installed_model, loaded_model, model_file, time

RECORDINGS = Path(__file__).parents[1] / "recordings"


def recorded(version: str, name: str) -> Any:
    """Return the body that a real Ollama answered."""
    exchanges = json.loads((RECORDINGS / f"ollama-{version}.json").read_text())["exchanges"]
    return next(exchange for exchange in exchanges if exchange["name"] == name)["lines"][0]


@pytest.mark.parametrize("version", ["0.24", "0.33"])
def test_real_answers_are_parsed(version: str) -> None:
    """Names, sizes, digests, capabilities and the model's blob, of both recorded versions."""
    entry, shown = recorded(version, "tags")["models"][0], recorded(version, "show")

    installed, file = installed_model(entry, str), model_file(shown)

    assert (installed.name, installed.digest, installed.size_bytes) == (entry["name"], entry["digest"], entry["size"])
    assert installed.quantization == entry["details"]["quantization_level"]
    assert installed.can_generate is (True if version == "0.33" else None)
    assert f"sha256-{file.blob}" in shown["modelfile"]
    assert file.can_generate is True
    assert not file.cloud


def test_a_mixture_of_experts_is_not_dense() -> None:
    """Each token reads only a part of such a model. Without the model's facts it is unknown."""
    moe = model_file({"model_info": {"qwen3moe.expert_count": 128}})
    dense = model_file({"model_info": {"llama.block_count": 32}})
    unknown = model_file({})

    assert [moe.dense, dense.dense, unknown.dense] == [False, True, None]
    assert unknown == ModelFile(blob=None, dense=None, can_generate=None, cloud=False)


@pytest.mark.parametrize(
    ("entry", "cloud"),
    [
        ({"name": "m"}, False),
        ({"name": "m:120b-cloud"}, True),
        ({"remote_host": "h"}, True),
        ({"remote_model": "m"}, True),
    ],
)
def test_a_model_that_runs_elsewhere_is_a_cloud_model(entry: dict[str, str], cloud: bool) -> None:
    """Ollama marks it by its remote host, its remote model or its name."""
    assert installed_model(entry, str).cloud is cloud


def test_a_missing_share_on_the_gpu_is_0() -> None:
    """Go omits a `size_vram` of 0; one of the wrong type is unknown."""
    assert loaded_model({"size": 5}, str).gpu_ratio == 0
    assert loaded_model({"size": True}, str).gpu_ratio is None
    assert loaded_model({"size": 5, "size_vram": "all"}, str).gpu_ratio is None
    assert loaded_model({"size": 5, "size_vram": 4}, str).gpu_ratio == 0.8


def test_times_are_parsed_to_the_microsecond_with_their_zone() -> None:
    """Ollama writes nanoseconds, and local time with an offset. A time without a zone cannot be compared."""
    assert time("2026-11-24T15:06:20.566098482Z") == datetime(2026, 11, 24, 15, 6, 20, 566098, UTC)
    assert time("2026-11-24T17:06:20.5+02:00") == datetime(2026, 11, 24, 15, 6, 20, 500000, UTC)
    assert time("2026-11-24T15:06:20") is None
    assert time(12) is None


_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=5,
)
_ENTRY = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        (
            "name",
            "model",
            "digest",
            "size",
            "size_vram",
            "details",
            "capabilities",
            "expires_at",
            "context_length",
            "modelfile",
            "model_info",
        ),
        _JSON,
    ),
)


@given(_ENTRY)
def test_any_json_object_can_be_parsed(entry: dict[str, Any]) -> None:
    """A field of any type is parsed or counts as missing, and shares are between 0 and 1."""
    installed, loaded, file = installed_model(entry, str), loaded_model(entry, str), model_file(entry)

    assert isinstance(installed.name, str)
    assert installed.size_bytes is None or 0 <= installed.size_bytes < 2**63
    assert loaded.gpu_ratio is None or 0 <= loaded.gpu_ratio <= 1
    assert file.blob is None or len(file.blob) == 64
