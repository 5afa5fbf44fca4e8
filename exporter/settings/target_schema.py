"""What a user may write about probes, models and targets: each key with its meaning and its default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from exporter.durations import Duration
from exporter.plan import Discovery, ModelPlan, TargetPlan, WhenUnloaded, Workload, model_label
from exporter.settings.values import (
    CaFile,
    Headers,
    Interval,
    KeepAlive,
    NumPredict,
    Real,
    SecretFile,
    Template,
    Text,
    Timeout,
    TokenFile,
    Url,
    Username,
    Whole,
    first_repeated,
    not_empty,
)

DEFAULT_MODEL = "llama3.1"
LIST_TAG, WORD_TAG = "(list)", "(word)"
"""How pydantic names the two forms of `models` in an error's location."""
STRICT = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


class ProbeSettings(BaseModel):
    """The work a probe asks for, and its limits."""

    model_config = STRICT

    template: Template = Field(
        "Question: {question}\n\nAnswer: Let's think step by step.",
        description="The prompt. It holds `{question}`; literal braces are written `{{` and `}}`.",
    )
    question: Text = Field(
        "What are the 50 most imporant concepts in a college level course on deep learning?",
        description="What the model is asked. The misspelling is the reference program's own.",
    )
    num_predict: NumPredict = Field(
        256, description="Tokens to generate: 16 or more; `-1` lets the model end by itself, as the reference program."
    )
    temperature: Real = Field(0.0, ge=0, description="Sampling temperature; 0 asks for the same words each time.")
    seed: Whole = Field(42, description="Sampling seed.")
    reasoning: bool = Field(default=False, description="Whether a thinking model is to think.")
    timeout: Timeout = Field(
        Duration(120), description="Deadline of the measured request, a wait for Ollama's slot included."
    )
    load_timeout: Timeout = Field(Duration(300), description="Deadline of loading a model that is not loaded.")
    when_unloaded: WhenUnloaded = Field(
        "borrow",
        description="What to do with a model that is not loaded: `borrow` (load it where that evicts no other, measure,"
        " give the memory back), `load` (load it whatever is there, leave it loaded) or `skip` (measure nothing).",
    )
    keep_alive: KeepAlive = Field(
        None,
        description="Sent to Ollama with each probe: a duration, seconds, or -1 for ever. `null` sends nothing, which"
        " leaves the server's own timer alone. Never 0.",
    )


class _Overrides(ProbeSettings):
    """Any key of `probe`, and `interval`, set again; a key that is not written is inherited."""

    interval: Interval = Field(Duration(900), description="Time between two probes of one model.")

    def over(self, inherited: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inherited values, replaced by those that were written here."""
        written = self.model_fields_set & _Overrides.model_fields.keys()
        return {**inherited, **{key: getattr(self, key) for key in written}}


class ModelSettings(_Overrides):
    """One model of a target; a bare name stands for one with nothing else set."""

    name: Text = Field(description="The model's name as Ollama knows it; `:latest` may be left out.")
    expected_decode_tokens_per_second: Real | None = Field(
        None, gt=0, description="The decode rate that is normal here, from `calibrate`; alerts can compare with it."
    )

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, dict):
            raise ValueError("not a name: put it in quotes")  # noqa: TRY004 - pydantic collects ValueErrors
        return value


class BasicAuth(BaseModel):
    """User name and password for HTTP basic authentication."""

    model_config = STRICT

    username: Username = Field(repr=False, description="User name.")
    password_file: SecretFile = Field(description="File with the password, read anew for each request.")


class Tls(BaseModel):
    """How the server's certificate is checked."""

    model_config = STRICT

    ca_file: CaFile | None = Field(
        None, description="PEM file with the certificate authorities to trust instead of the usual ones."
    )
    insecure_skip_verify: bool = Field(default=False, description="Accept any certificate.")

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.ca_file and self.insecure_skip_verify:
            raise ValueError("ca_file has no effect beside insecure_skip_verify: remove one of them")
        return self


class TargetSettings(_Overrides):
    """One Ollama server."""

    name: Text | None = Field(
        None,
        description="Short name, the `target` label. Default: host:port, with this machine's host name for loopback.",
    )
    url: Url = Field(
        description="Where the server is: `http://gpu-a:11434`. User name and password in it are sent, never shown."
    )
    gpu: Text | None = Field(None, description="Name to show for its card, the `gpu` label.")
    local: bool | None = Field(
        None,
        description="Whether the server runs on this machine, so that this machine's GPUs can be matched with it."
        " Default: whether the URL's host is loopback or one of this machine's addresses. Write `true` for a server in"
        " a container on this machine.",
    )
    models: Annotated[
        Annotated[tuple[ModelSettings, ...], AfterValidator(not_empty), Tag(LIST_TAG)]
        | Annotated[Discovery, Tag(WORD_TAG)],
        Discriminator(lambda value: WORD_TAG if isinstance(value, str) else LIST_TAG),
    ] = Field(
        (DEFAULT_MODEL,),
        validate_default=True,
        description="The models to probe: a list, or `installed` or `loaded`, which follow the server (only models that"
        " can generate, never cloud ones).",
    )
    headers: Headers = Field(
        default_factory=dict, repr=False, description="Headers to send with each request. Their values are never shown."
    )
    bearer_token_file: TokenFile | None = Field(
        None, description="File with a token for `Authorization: Bearer`, read anew for each request."
    )
    basic_auth: BasicAuth | None = Field(None, description="HTTP basic authentication.")
    tls: Tls | None = Field(None, description="How the certificate of an https server is checked.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        authorizations = {
            "a user name in url": self.url.username is not None,
            "bearer_token_file": self.bearer_token_file is not None,
            "basic_auth": self.basic_auth is not None,
            "an Authorization header": any(name.lower() == "authorization" for name in self.headers),
        }
        used = [name for name, is_used in authorizations.items() if is_used]
        if len(used) > 1:
            raise ValueError(f"only one authorization can be sent: keep one of {', '.join(used)}")
        if self.tls and not self.url.url.startswith("https:"):
            raise ValueError("tls has no effect on an http URL: write https:// in url, or remove tls")
        if not isinstance(self.models, str) and (twice := first_repeated(model_label(m.name) for m in self.models)):
            raise ValueError(f"models: {twice!r} is listed twice (`:latest` does not count): remove one of them")
        return self

    @property
    def label(self) -> str:
        """The `target` label."""
        return self.name or self.url.default_name

    def plan(self, inherited: Mapping[str, Any]) -> TargetPlan:
        """Return the plan for this target, where what it does not set itself is inherited."""
        values = self.over(inherited)
        models: tuple[ModelPlan, ...] | Discovery = (
            self.models
            if isinstance(self.models, str)
            else tuple(
                _model_plan(m.name, m.over(values), expected=m.expected_decode_tokens_per_second) for m in self.models
            )
        )
        return TargetPlan(
            name=self.label,
            url=self.url.url,
            gpu=self.gpu,
            local=self.url.is_local if self.local is None else self.local,
            models=models,
            defaults=_model_plan("", values),
            headers={name: value.get_secret_value() for name, value in self.headers.items()},
            bearer_token_file=self.bearer_token_file,
            username=self.basic_auth.username if self.basic_auth else self.url.username,
            password=self.url.password,
            password_file=self.basic_auth.password_file if self.basic_auth else None,
            ca_file=self.tls.ca_file if self.tls else None,
            insecure_skip_verify=self.tls.insecure_skip_verify if self.tls else False,
        )


def _model_plan(model: str, values: Mapping[str, Any], *, expected: float | None = None) -> ModelPlan:
    return ModelPlan(
        model=model,
        workload=Workload(**{key: values[key] for key in Workload.__dataclass_fields__}),
        interval_seconds=float(values["interval"]),
        timeout_seconds=float(values["timeout"]),
        load_timeout_seconds=float(values["load_timeout"]),
        when_unloaded=values["when_unloaded"],
        keep_alive=values["keep_alive"],
        expected_decode_tokens_per_second=expected,
    )
