"""The configuration file is strict YAML, and texts in it may refer to environment variables."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.configurations import load, mistakes

from exporter.errors import SettingsError
from exporter.settings.config_file import read_config_file
from exporter.settings.locations import FileText


def _read(directory: Path, text: str, **environ: str) -> object:
    path = directory / "config.yml"
    path.write_text(text, encoding="utf-8")
    return read_config_file(path, environ)


def test_variables_are_replaced_in_texts_at_any_depth(tmp_path: Path) -> None:
    """A variable may be the whole text or a part of it, and may be empty. Keys and numbers are not changed."""
    text = "{a: '${X}', b: [{c: 'http://${X}:${Y}/$X'}], '${X}': 1, n: 5, e: '${E}'}"

    assert _read(tmp_path, text, X="gpu", Y="1", E="") == {
        "a": "gpu",
        "b": [{"c": "http://gpu:1/$X"}],
        "${X}": 1,
        "n": 5,
        "e": "",
    }


def test_a_literal_reference_can_be_written(tmp_path: Path) -> None:
    """`$${` stands for `${`, and the value of a variable is not expanded again."""
    assert _read(tmp_path, "{a: '$${X} $$', b: '${X}'}", X="${Y}") == {"a": "${X} $$", "b": "${Y}"}


def test_a_text_keeps_what_was_written_and_its_directory(tmp_path: Path) -> None:
    """Messages show the written text, and paths start at the directory of the file."""
    data = _read(tmp_path, "{a: '${X}/y'}", X="secret")

    assert isinstance(data, dict)
    text = data["a"]
    assert isinstance(text, FileText)
    assert (text, text.written, text.directory) == ("secret/y", "${X}/y", tmp_path)


def test_every_variable_that_is_not_set_is_reported(tmp_path: Path) -> None:
    """Each is reported with its key and its name."""
    lines = mistakes(tmp_path, "{targets: [{url: '${HOST}', name: '${A B}'}], log: {level: '${}'}}", environ={"X": "1"})

    assert [line.partition(": ")[0] for line in lines] == ["targets[0].url", "targets[0].name", "log.level"]
    assert ["'HOST'" in lines[0], "'A B'" in lines[1], "''" in lines[2]] == [True, True, True]


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "null"])
def test_a_file_that_sets_nothing_is_refused(tmp_path: Path, text: str) -> None:
    """An editor may just have truncated it, so it must not stand for the defaults."""
    with pytest.raises(SettingsError, match="no settings"):
        _read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "place", "keyword"),
    [
        ("interval: 5m\ninterval: 6m\n", "line 2, column 1", "duplicate key"),
        ("web: {telemetry_path: /a, telemetry_path: /b}", "line 1, column 27", "duplicate key"),
        ("targets: [{url: s3cret, url: s3cret}]", "line 1, column 25", "duplicate key"),
        ("1: s3cret", "line 1, column 1", "quotes"),
        ("{[s3cret]: s3cret}", "line 1, column 2", "quotes"),
        ("a: s3cret: s3cret", "line 1, column 10", "mapping values"),
        ("a: *s3cret", "line 1, column 4", "undefined alias"),
        ("a: !s3cret x", "line 1, column 4", "tag"),
        ('a: "\\s3cret"', "line 1, column 6", "escape character"),
        ("a: @s3cret", "line 1, column 4", "cannot start any token"),
        ("a:\n\tb: s3cret", "line 2, column 1", "tab"),
        ("a: 's3cret", "line 1, column 11", "end of stream"),
        ("a: [s3cret", "line 1, column 11", "expected ',' or ']'"),
        ("a: 1\n---\nb: s3cret", "line 2, column 1", "another document"),
        ("a: s3cret\x00", "", "characters"),
        ("a: 2026-99-99", "", "value"),
        ("[" * 1000, "", "nested"),
        ("- s3cret", "", "key: value"),
        ("s3cret", "", "key: value"),
    ],
)
def test_a_file_that_is_not_a_configuration_is_refused(tmp_path: Path, text: str, place: str, keyword: str) -> None:
    """The message gives the place, and nothing of the content, which may be a secret."""
    with pytest.raises(SettingsError) as refusal:
        _read(tmp_path, text)

    assert str(refusal.value).startswith(f"{tmp_path / 'config.yml'}: {place}")
    assert keyword in str(refusal.value)
    assert "s3cret" not in str(refusal.value)
    assert refusal.value.__context__ is None


@pytest.mark.parametrize(
    ("name", "keyword"),
    [
        ("missing", "No such file or directory"),
        ("", "Is a directory"),
        ("latin", "UTF-8"),
        ("fifo", "FIFO"),
        ("/dev/zero", "device"),
        ("large", "1024 KiB"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str, keyword: str) -> None:
    """The message gives the reason: missing, not a regular file, too large, or another encoding. Nothing blocks."""
    (tmp_path / "latin").write_bytes(b"a: s3cret\xff")
    (tmp_path / "large").write_bytes(b"#" * (2**20 + 1))
    os.mkfifo(tmp_path / "fifo")

    with pytest.raises(SettingsError) as refusal:
        read_config_file(tmp_path / name, {})

    assert str(refusal.value).startswith(f"{tmp_path / name}: ")
    assert keyword in str(refusal.value)


def test_anchors_and_merge_keys_can_be_used(tmp_path: Path) -> None:
    """A merged key may be set again; it is not a duplicate."""
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
