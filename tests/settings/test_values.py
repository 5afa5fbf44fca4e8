"""Single values: which are accepted, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.configurations import load, mistakes


@pytest.mark.parametrize(
    ("key", "value", "shown", "keyword"),
    [
        ("interval", "999ms", '"999ms"', "1s or longer"),
        ("interval", "300", "300", "unit"),
        ("interval", "5 minutes", '"5 minutes"', "duration"),
        ("interval", "null", "null", "duration"),
        ("max_concurrent_probes", "0", "0", "1 or more"),
        ("probe.timeout", "0s", '"0s"', "greater than 0s"),
        ("probe.timeout", "-5m", '"-5m"', "duration"),
        ("probe.load_timeout", "0s", '"0s"', "greater than 0s"),
        ("probe.num_predict", "0", "0", "unlimited"),
        ("probe.num_predict", "-2", "-2", "unlimited"),
        ("probe.num_predict", "-3", "-3", "16 or more"),
        ("probe.num_predict", "15", "15", "16 or more"),
        ("probe.num_predict", "many", '"many"', "whole number"),
        ("probe.temperature", "hot", '"hot"', "must be a number"),
        ("probe.temperature", "-0.1", "-0.1", "0 or more"),
        ("probe.temperature", ".inf", "Infinity", "finite"),
        ("probe.temperature", ".nan", "NaN", "finite"),
        ("probe.seed", "true", "true", "number"),
        ("probe.seed", "4294967296", "4294967296", "2147483647 or less"),
        ("probe.seed", "1.5", "1.5", "whole number"),
        ("probe.reasoning", "perhaps", '"perhaps"', "true or false"),
        ("probe.when_unloaded", "wait", '"wait"', "[borrow, load, skip]"),
        ("probe.template", '"no placeholder"', '"no placeholder"', "{question}"),
        ("probe.template", '"{question} {other}"', '"{question} {other}"', "{question}"),
        ("probe.template", '"{question!r}"', '"{question!r}"', "no other placeholder"),
        ("probe.template", '"{question} {"', '"{question} {"', "{{"),
        ("probe.template", '"{{question}}"', '"{{question}}"', "{question}"),
        ("probe.question", '" "', '" "', "empty"),
        ("probe.question", "42", "42", "quotes"),
        ("probe.keep_alive", "9999999999", "9999999999", "292 years"),
        ("probe.keep_alive", "0", "0", "unload"),
        ("probe.keep_alive", '"0"', '"0"', "unload"),
        ("probe.keep_alive", "0s", '"0s"', "unload"),
        ("probe.keep_alive", "-0m", '"-0m"', "unload"),
        ("probe.keep_alive", "0.5", "0.5", "number of seconds"),
        ("probe.keep_alive", "true", "true", "number of seconds"),
        ("probe.keep_alive", "soon", '"soon"', "duration"),
        ("probe.keep_alive", "--5m", '"--5m"', "duration"),
        ("log.level", "warning", '"warning"', "[debug, info, warn, error]"),
        ("log.format", "text", '"text"', "[logfmt, json]"),
    ],
)
def test_an_invalid_value_is_refused(tmp_path: Path, key: str, value: str, shown: str, keyword: str) -> None:
    """The message is one line that starts with the key and contains the value as it was written."""
    *sections, name = key.split(".")
    text = "".join(f"{section}: {{" for section in sections) + f"{name}: {value}" + "}" * len(sections)

    (line,) = mistakes(tmp_path, text)

    assert line.startswith(f"{key}: ")
    assert f"({shown})" in line
    assert keyword in line


def test_a_text_in_place_of_a_section_is_refused(tmp_path: Path) -> None:
    """The text is not shown, because a section may contain secrets."""
    (line,) = mistakes(tmp_path, "log: debug")

    assert line.startswith("log: ")
    assert "section" in line
    assert "debug" not in line


@pytest.mark.parametrize(
    ("written", "sent"),
    [("5m", "5m"), ("300", 300), ('"300"', 300), ("-1", -1), ('"-1"', -1), ("-1m", "-1m"), ("null", None)],
)
def test_keep_alive_is_sent_in_a_form_that_ollama_accepts(tmp_path: Path, written: str, sent: str | int | None) -> None:
    """A number in quotes becomes a number, because Ollama refuses `"300"`."""
    assert load(tmp_path, f"probe: {{keep_alive: {written}}}").probe.keep_alive == sent


@pytest.mark.parametrize("num_predict", [16, 256, -1])
def test_num_predict_accepts_what_can_be_measured(tmp_path: Path, num_predict: int) -> None:
    """16 tokens or more can be measured; with -1 the model decides when to stop."""
    assert load(tmp_path, f"probe: {{num_predict: {num_predict}}}").probe.num_predict == num_predict


def test_a_template_may_contain_literal_braces(tmp_path: Path) -> None:
    """Doubled braces are literal, as in LangChain's templates."""
    assert load(tmp_path, 'probe: {template: "{{json}} {question}"}').probe.template == "{{json}} {question}"
