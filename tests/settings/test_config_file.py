"""The configuration file is strict YAML, and a text in it may name environment variables."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.configurations import load, mistakes

from exporter.errors import SettingsError
from exporter.settings.config_file import read_config_file


def _read(directory: Path, text: str, **environ: str) -> object:
    path = directory / "config.yml"
    path.write_text(text, encoding="utf-8")
    return read_config_file(path, environ)


def test_variables_are_replaced_in_texts_at_any_depth(tmp_path: Path) -> None:
    """A variable may be the whole text or a part, also an empty one; keys and numbers are left alone."""
    text = "{a: '${X}', b: [{c: 'http://${X}:${Y}/$X'}], '${X}': 1, n: 5, e: '${E}'}"

    assert _read(tmp_path, text, X="gpu", Y="1", E="") == {
        "a": "gpu",
        "b": [{"c": "http://gpu:1/$X"}],
        "${X}": 1,
        "n": 5,
        "e": "",
    }


def test_a_literal_reference_can_be_written(tmp_path: Path) -> None:
    """`$${` is the way to a `${` that is meant, and what comes from a variable is not looked at again."""
    assert _read(tmp_path, "{a: '$${X} $$', b: '${X}'}", X="${Y}") == {"a": "${X} $$", "b": "${Y}"}


def test_every_variable_that_is_not_set_is_named(tmp_path: Path) -> None:
    """Place and name are told for each, at once."""
    assert mistakes(
        tmp_path, "{targets: [{url: '${HOST}', name: '${A B}'}], log: {level: '${}'}}", environ={"X": "1"}
    ) == [
        "targets[0].url: the environment variable 'HOST' is not set: set it, or write $${ for a literal ${",
        "targets[0].name: the environment variable 'A B' is not set: set it, or write $${ for a literal ${",
        "log.level: the environment variable '' is not set: set it, or write $${ for a literal ${",
    ]


def test_files_start_at_the_directory_of_the_configuration(tmp_path: Path) -> None:
    """A relative path means the same wherever the program is started; an absolute one is left alone."""
    assert _read(tmp_path, "{a_file: secret, b: [{c_file: '${D}/x'}], d_file: /etc/x}", D="sub") == {
        "a_file": str(tmp_path / "secret"),
        "b": [{"c_file": str(tmp_path / "sub/x")}],
        "d_file": "/etc/x",
    }


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "null"])
def test_an_empty_file_sets_nothing(tmp_path: Path, text: str) -> None:
    """A file with all its lines commented out leaves the defaults."""
    assert _read(tmp_path, text) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("interval: 5m\ninterval: 6m\n", "line 2, column 1: a key that is written twice"),
        ("web: {telemetry_path: /a, telemetry_path: /b}", "line 1, column 27: a key that is written twice"),
        ("targets: [{url: s3cret, url: s3cret}]", "line 1, column 25: a key that is written twice"),
        ("1: s3cret", "line 1, column 1: a key that is no word"),
        ("{[s3cret]: s3cret}", "line 1, column 2: a key that is no word"),
        ("a: s3cret: s3cret", "line 1, column 10: mapping values are not allowed here"),
        ("a: *s3cret", "line 1, column 4: found undefined alias ...:"),
        ("a: !s3cret x", "line 1, column 4: could not determine a constructor for the tag ...:"),
        ('a: "\\s3cret"', "line 1, column 6: found unknown escape character ...:"),
        ("a: @s3cret", "line 1, column 4: found character ... that cannot start any token"),
        ("a: 's3cret", "line 1, column 11: found unexpected end of stream"),
        ("a: [s3cret", "line 1, column 11: expected ...:"),
        ("a: s3cret\x00", "unreadable characters:"),
        ("a: 1\n---\nb: s3cret", "line 2, column 1: but found another document"),
        ("a: 2026-99-99", "values that YAML cannot hold"),
        ("[" * 1000, "values that YAML cannot hold, or nested too deep"),
        ("- s3cret", "not `key: value` lines"),
        ("s3cret", "not `key: value` lines"),
    ],
)
def test_what_is_no_configuration_is_refused_by_its_place(tmp_path: Path, text: str, message: str) -> None:
    """The place is told, and nothing that stands there: it may be a secret."""
    with pytest.raises(SettingsError) as refusal:
        _read(tmp_path, text)

    assert str(refusal.value).startswith(f"{tmp_path / 'config.yml'}: {message}")
    assert "s3cret" not in str(refusal.value)
    assert refusal.value.__context__ is None


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """A missing file, a directory and a file in another encoding are told apart."""
    (tmp_path / "latin").write_bytes(b"a: s3cret\xff")

    for name, message in (
        ("missing", "No such file or directory: name a file"),
        ("", "Is a directory: name a file"),
        ("latin", "not text: write the file in UTF-8"),
    ):
        with pytest.raises(SettingsError) as refusal:
            read_config_file(tmp_path / name, {})
        assert str(refusal.value).startswith(f"{tmp_path / name}: {message}")


def test_anchors_and_merges_may_be_used(tmp_path: Path) -> None:
    """YAML's own way to say a thing once works, and a merged key may be set again."""
    settings = load(
        tmp_path,
        """
        targets:
          - &first {url: http://a:1, interval: 5m, models: [m]}
          - {<<: *first, url: http://b:1}
        """,
    )

    assert [(plan.url, plan.defaults.interval_seconds) for plan in settings.plans()] == [
        ("http://a:1", 300),
        ("http://b:1", 300),
    ]
