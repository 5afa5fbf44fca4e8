"""Single values: what is taken, and what is refused with which remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.configurations import load, mistakes


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("interval", "999ms", '"999ms": shorter than 1s: write 1s or more'),
        ("interval", "300", "300: a number without a unit: write a number and a unit"),
        ("interval", "5 minutes", '"5 minutes": not a duration'),
        ("interval", "null", "null: not a duration"),
        ("max_concurrent_probes", "0", "0: it should be greater than or equal to 1"),
        ("probe.timeout", "0s", '"0s": nothing would ever be in time'),
        ("probe.timeout", "-5m", '"-5m": not a duration'),
        ("probe.load_timeout", "0s", '"0s": nothing would ever be in time'),
        ("probe.num_predict", "0", "0: Ollama takes this as no limit, so that one probe generates on and on"),
        ("probe.num_predict", "-2", "-2: Ollama takes this as no limit"),
        ("probe.num_predict", "-3", "-3: too few tokens to measure"),
        ("probe.num_predict", "15", "15: too few tokens to measure: write 16 or more, or -1"),
        ("probe.num_predict", "many", '"many": it should be a valid integer'),
        ("probe.temperature", "-0.1", "-0.1: it should be greater than or equal to 0"),
        ("probe.temperature", ".inf", "Infinity: it should be a finite number"),
        ("probe.temperature", ".nan", "NaN: it should be"),
        ("probe.seed", "true", "true: not a number: write one"),
        ("probe.seed", "4294967296", "4294967296: it should be less than or equal to 2147483647"),
        ("probe.keep_alive", "9999999999", "9999999999: longer than 292 years"),
        ("probe.seed", "1.5", "1.5: it should be a valid integer"),
        ("probe.reasoning", "perhaps", '"perhaps": it should be a valid boolean'),
        ("probe.when_unloaded", "wait", "\"wait\": write one of 'borrow', 'load' or 'skip'"),
        ("probe.template", '"no placeholder"', '"no placeholder": it must hold {question}'),
        ("probe.template", '"{question} {other}"', '"{question} {other}": it must hold {question} and no other'),
        ("probe.template", '"{question!r}"', '"{question!r}": it must hold {question}'),
        (
            "probe.template",
            '"{question} {"',
            '"{question} {": it must hold {question} and no other placeholder: write {{',
        ),
        ("probe.template", '"{{question}}"', '"{{question}}": it must hold {question}'),
        ("probe.question", '" "', '" ": empty: write some text'),
        ("probe.question", "42", "42: not a text: put it in quotes"),
        ("probe.keep_alive", "0", "0: it would unload the model under its users after each probe"),
        ("probe.keep_alive", '"0"', '"0": it would unload the model'),
        ("probe.keep_alive", "0s", '"0s": it would unload the model'),
        ("probe.keep_alive", "-0m", '"-0m": it would unload the model'),
        ("probe.keep_alive", "0.5", "0.5: neither a duration nor a whole number of seconds"),
        ("probe.keep_alive", "true", "true: neither a duration nor a whole number"),
        ("probe.keep_alive", "soon", '"soon": not a duration'),
        ("probe.keep_alive", "--5m", '"--5m": not a duration'),
        ("web.telemetry_path", "metrics", '"metrics": not a path: write one like /metrics'),
        ("web.telemetry_path", "/", '"/": not a path'),
        ("web.telemetry_path", '"/{x}"', '"/{x}": not a path'),
        ("web.telemetry_path", "/a b", '"/a b": not a path'),
        ("web.telemetry_path", "/-/ready", '"/-/ready": taken by this program\'s health pages'),
        ("web.telemetry_path", "/-/healthy", '"/-/healthy": taken by this program\'s health pages'),
        ("web.listen_address", "[]", "an empty list: write at least one"),
        ("web.listen_address", '[":1", ":1"]', "one address is written twice"),
        ("log.level", "warning", "\"warning\": write one of 'debug', 'info', 'warn' or 'error'"),
        ("log.format", "text", "\"text\": write one of 'logfmt' or 'json'"),
        ("log", "debug", '"debug": not a section: write `key: value` lines below it'),
    ],
)
def test_a_bad_value_is_refused_with_place_value_and_remedy(tmp_path: Path, key: str, value: str, message: str) -> None:
    """Each refusal is one line that begins with the key's path and the value."""
    *sections, name = key.split(".")
    text = "".join(f"{section}: {{" for section in sections) + f"{name}: {value}" + "}" * len(sections)

    (line,) = mistakes(tmp_path, text)

    assert line.startswith(f"{key}: {message}")


def test_the_bad_one_of_several_listen_addresses_is_named(tmp_path: Path) -> None:
    """In a list, the place says which entry is meant."""
    (line,) = mistakes(tmp_path, 'web: {listen_address: [":1", "10434"]}')

    assert line.startswith('web.listen_address[1]: "10434": not an address to listen on')


@pytest.mark.parametrize(
    ("written", "sent"),
    [("5m", "5m"), ("300", 300), ('"300"', 300), ("-1", -1), ('"-1"', -1), ("-1m", "-1m"), ("null", None)],
)
def test_keep_alive_is_sent_as_ollama_takes_it(tmp_path: Path, written: str, sent: str | int | None) -> None:
    """A bare number goes out as a number of seconds, since Ollama refuses `"300"`."""
    assert load(tmp_path, f"probe: {{keep_alive: {written}}}").probe.keep_alive == sent


@pytest.mark.parametrize("num_predict", [16, 256, -1])
def test_num_predict_takes_what_can_be_measured(tmp_path: Path, num_predict: int) -> None:
    """16 tokens or more can be measured, and -1 leaves the end to the model."""
    assert load(tmp_path, f"probe: {{num_predict: {num_predict}}}").probe.num_predict == num_predict


def test_a_template_may_hold_literal_braces(tmp_path: Path) -> None:
    """Doubled braces are literal, as LangChain's templates have it."""
    assert load(tmp_path, 'probe: {template: "{{json}} {question}"}').probe.template == "{{json}} {question}"


def test_listen_addresses_are_hosts_and_ports(tmp_path: Path) -> None:
    """What is written as one text or as a list comes out as pairs; port 0 may be asked for twice."""
    web = load(tmp_path, 'web: {listen_address: [":10434", "[::1]:0", "[::1]:0"]}').web
    assert web.listen_addresses == (("", 10434), ("::1", 0), ("::1", 0))
    assert load(tmp_path, 'web: {listen_address: "127.0.0.1:1"}').web.listen_addresses == (("127.0.0.1", 1),)


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ("{Content-Length: '1'}", "Content-Length is this program's own to set"),
        ("{transfer-encoding: chunked}", "transfer-encoding is this program's own to set"),
        ("{Accept-Encoding: gzip}", "Accept-Encoding is this program's own to set"),
        ("{'X Y': s3cret}", "a header's name holds a character that HTTP does not allow"),
        ('{X-Key: "s3cret\\n"}', "the value of X-Key is not plain ASCII"),
        ('{X-Key: "s3cret\\r\\nHost: evil"}', "the value of X-Key is not plain ASCII"),
        ("{X-Key: s3cretß}", "the value of X-Key is not plain ASCII"),
        ("{X-Key: a, x-key: b}", "x-key is written twice"),
        ("s3cret", "not a section"),
    ],
)
def test_headers_that_cannot_be_sent_are_refused(tmp_path: Path, headers: str, message: str) -> None:
    """What would break the request, or be lost, is refused by name, and no value is shown."""
    (line,) = mistakes(tmp_path, f"targets: [{{url: 'http://a:1', headers: {headers}}}]")

    assert line.startswith(f"targets[0].headers: {message}")
    assert "s3cret" not in line


def test_a_header_that_yaml_takes_for_a_number_is_refused(tmp_path: Path) -> None:
    """A number might not read as it was written: quotes are asked for, and its value is not shown."""
    (line,) = mistakes(tmp_path, "targets: [{url: 'http://a:1', headers: {X-Key: 0123456}}]")

    assert line == "targets[0].headers.X-Key: not a text: put it in quotes"


def test_a_host_header_may_be_set(tmp_path: Path) -> None:
    """Ollama refuses foreign Host names, so that somebody behind a proxy must be able to set one."""
    (plan,) = load(tmp_path, "targets: [{url: 'http://a:1', headers: {Host: localhost}}]").plans()

    assert plan.headers == {"Host": "localhost"}
