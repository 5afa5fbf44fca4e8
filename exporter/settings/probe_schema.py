"""The schema of probes and models: each key with its type, description and default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from exporter.durations import Duration
from exporter.plan import ModelPlan, WhenUnloaded, Workload, is_cloud_model
from exporter.settings.values import Integer, Interval, KeepAlive, Number, NumPredict, Template, Text, Timeout

DEFAULT_MODEL = "llama3.1"
DEFAULT_INTERVAL = Duration(900)
STRICT = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)
_DURATIONS = ("interval", "timeout", "load_timeout")


class ProbeSettings(BaseModel):
    """The request of a probe, and its limits."""

    model_config = STRICT

    template: Template = Field(
        "Question: {question}\n\nAnswer: Let's think step by step.",
        description="Prompt template. It contains `{question}`; literal braces are written `{{` and `}}`.",
    )
    question: Text = Field(
        "What are the 50 most imporant concepts in a college level course on deep learning?",
        description="Question to ask the model. The spelling of the default is intended: it keeps results comparable.",
    )
    num_predict: NumPredict = Field(
        256, description="Number of tokens to generate, 16 or more. With `-1` the model decides when to stop."
    )
    temperature: Number = Field(
        0.0, ge=0, description="Sampling temperature. With 0 the model gives the same answer each time."
    )
    seed: Integer = Field(42, description="Seed for sampling.")
    reasoning: bool = Field(default=False, description="Whether a thinking model may think before it answers.")
    timeout: Timeout = Field(
        Duration(120), description="Timeout of the measured request, including time in Ollama's queue."
    )
    load_timeout: Timeout = Field(Duration(300), description="Timeout of loading a model that is not loaded.")
    when_unloaded: WhenUnloaded = Field(
        "borrow",
        description="What to do if the model is not loaded. `borrow`: load it unless another model is loaded, and"
        " unload it after the probe. `load`: load it, which may evict other models, and leave it loaded. `skip`: do not"
        " probe.",
    )
    keep_alive: KeepAlive = Field(
        None,
        description="How long Ollama keeps the model loaded after a probe: a duration, a number of seconds, or -1 for"
        " no limit. `null` keeps the server's default.",
    )
    cpu_intended: bool = Field(
        default=False,
        description="Whether this model is meant to run on the CPU. The alert for models partly on the CPU leaves it"
        " out.",
    )


class Overrides(ProbeSettings):
    """Any key of `probe`, and `interval`, for one target or model. Keys that are not set are inherited."""

    interval: Interval = Field(DEFAULT_INTERVAL, description="Time between two probes of the same model.")

    def merged_with(self, inherited: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inherited values, replaced by those that are set here."""
        return {
            **inherited,
            **{key: getattr(self, key) for key in self.model_fields_set & Overrides.model_fields.keys()},
        }


def _not_in_the_cloud(name: str) -> str:
    if is_cloud_model(name):
        raise ValueError("cloud model, which does not run on this server. Remove it, or write a model that does.")
    return name


class ModelSettings(Overrides):
    """One model of a target. A string is the name of a model without other keys."""

    name: Annotated[Text, AfterValidator(_not_in_the_cloud)] = Field(
        description="Name of the model in Ollama. The tag `:latest` can be omitted."
    )
    expected_decode_tokens_per_second: Number | None = Field(
        None,
        gt=0,
        description="Expected decode rate, as printed by `calibrate`. Alerts compare the measured rate with it.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, dict):
            raise ValueError("must be a model name. Put it in quotes.")  # noqa: TRY004 - pydantic collects ValueErrors
        return value


def model_plan(
    model: str, values: Mapping[str, Any], expected_decode_tokens_per_second: float | None = None
) -> ModelPlan:
    """Return the plan for a model, from a value for each key of `Overrides`."""
    rest = dict(values)
    seconds: dict[str, Any] = {f"{key}_seconds": float(rest.pop(key)) for key in _DURATIONS}
    workload = Workload(**{key: rest.pop(key) for key in Workload.__dataclass_fields__})
    return ModelPlan(
        model=model,
        workload=workload,
        expected_decode_tokens_per_second=expected_decode_tokens_per_second,
        **seconds,
        **rest,
    )
