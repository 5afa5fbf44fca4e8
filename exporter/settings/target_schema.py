"""The schema of targets: each key with its type, description and default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, Discriminator, Field, Tag, model_validator

from exporter.plan import MODELS_MAX, Discovery, ModelPlan, TargetPlan, canonical_model_name
from exporter.settings.http_values import CaFile, File, Headers, SecretFile, TokenFile, Url, Username
from exporter.settings.probe_schema import DEFAULT_MODEL, STRICT, ModelSettings, Overrides, model_plan
from exporter.settings.secret_files import check_client_certificate
from exporter.settings.values import Integer, Text, not_empty

LIST_TAG, WORD_TAG = "(list)", "(word)"
"""What pydantic puts into the location of an error for the two forms of `models`."""


def _distinct_models(models: tuple[ModelSettings, ...]) -> tuple[ModelSettings, ...]:
    names: dict[str, str] = {}
    for model in models:
        canonical = canonical_model_name(model.name)
        if canonical in names:
            first = names[canonical]
            same = (
                f"{first!r} is listed twice"
                if first == model.name
                else f"{first!r} and {model.name!r} are the same model"
            )
            raise ValueError(f"{same}. Remove one of the two.")
        names[canonical] = model.name
    return models


class BasicAuth(BaseModel):
    """User name and password for HTTP basic authentication."""

    model_config = STRICT

    username: Username = Field(repr=False, description="User name.")
    password_file: SecretFile = Field(description="File that contains the password. It is read for each request.")


class Tls(BaseModel):
    """How the certificate of the server is verified, and the client certificate that it is shown."""

    model_config = STRICT

    ca_file: CaFile | None = Field(
        None, description="PEM file with the certificate authorities to trust, instead of the system's."
    )
    cert_file: File | None = Field(
        None, description="PEM file with the client certificate, for a server that requires one."
    )
    key_file: File | None = Field(
        None, description="PEM file with the private key of the client certificate. Default: it is in `cert_file`."
    )
    insecure_skip_verify: bool = Field(default=False, description="Whether to accept any certificate.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.key_file and not self.cert_file:
            raise ValueError("key_file has no effect without cert_file. Add cert_file, or remove key_file.")
        if self.cert_file:
            check_client_certificate(self.cert_file, self.key_file)
        if self.ca_file and self.insecure_skip_verify:
            raise ValueError("ca_file has no effect with insecure_skip_verify. Remove one of the two.")
        return self


class TargetSettings(Overrides):
    """One Ollama server."""

    name: Text | None = Field(
        None,
        description="Name of the target, the value of the `target` label. Default: host:port of the URL, with this"
        " machine's host name in place of a loopback address.",
    )
    url: Url = Field(
        description="URL of the server, such as `http://gpu-a:11434`. It may contain a user name and a password, which"
        " are sent to the server and never shown."
    )
    gpu: Text | None = Field(
        None, description="Name of the server's GPU for the `gpu` label. By default it is detected where possible."
    )
    local: bool | None = Field(
        None,
        description="Whether the server runs on this machine and uses its GPUs. By default this is decided by the host"
        " in the URL. Set `true` for a server in a container on this machine.",
    )
    models: Annotated[
        Annotated[tuple[ModelSettings, ...], AfterValidator(not_empty), AfterValidator(_distinct_models), Tag(LIST_TAG)]
        | Annotated[Discovery, Tag(WORD_TAG)],
        Discriminator(lambda value: WORD_TAG if isinstance(value, str) else LIST_TAG),
    ] = Field(
        (DEFAULT_MODEL,),
        validate_default=True,
        description="Models to probe: a list, or `installed` or `loaded` to follow the models of the server. Cloud"
        " models and models that cannot generate text are left out then.",
    )
    max_models: Integer = Field(
        MODELS_MAX,
        ge=1,
        le=1000,
        description="Number of models that are probed at most where `models` is `installed` or `loaded`, in order of"
        " their name. Raise Prometheus' `sample_limit` with it.",
    )
    headers: Headers = Field(
        default_factory=dict,
        repr=False,
        description="HTTP headers to send with each request. Their values are never shown.",
    )
    bearer_token_file: TokenFile | None = Field(
        None, description="File that contains a token for `Authorization: Bearer`. It is read for each request."
    )
    basic_auth: BasicAuth | None = Field(None, description="HTTP basic authentication.")
    tls: Tls | None = Field(None, description="Certificates for an https server. They are read again when they change.")

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
            raise ValueError(f"more than one kind of authorization. Keep only one of: {', '.join(used)}.")
        if self.tls and not self.url.url.startswith("https:"):
            raise ValueError("tls has no effect with an http URL. Write https:// in url, or remove tls.")
        return self

    @property
    def label(self) -> str:
        """The value of the `target` label."""
        return self.name or self.url.default_name

    def plan(self, inherited: Mapping[str, Any]) -> TargetPlan:
        """Return the plan for this target. Keys of `Overrides` that it does not set are inherited."""
        values = self.merged_with(inherited)
        models: tuple[ModelPlan, ...] | Discovery = (
            self.models
            if isinstance(self.models, str)
            else tuple(
                model_plan(model.name, model.merged_with(values), model.expected_decode_tokens_per_second)
                for model in self.models
            )
        )
        credentials = {"username": self.url.username, "password": self.url.password, **dict(self.basic_auth or ())}
        return TargetPlan(
            name=self.label,
            url=self.url.url,
            gpu=self.gpu,
            local=self.url.is_local if self.local is None else self.local,
            models=models,
            defaults=model_plan("", values),
            max_models=self.max_models,
            headers={name: value.get_secret_value() for name, value in self.headers.items()},
            bearer_token_file=self.bearer_token_file,
            **credentials,
            **dict(self.tls or ()),
        )
