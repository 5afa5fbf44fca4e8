"""The command line as a user meets it: what is printed, and the exit status."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from exporter import __version__, cli
from exporter.durations import Duration


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root, exporter = logging.getLogger(), logging.getLogger("exporter")
    before = root.handlers[:], root.level, exporter.level
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level, exporter.level = before


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """Return where a test may write a configuration."""
    return tmp_path / "config.yml"


def usage_error(*words: str) -> None:
    """Run a command line that is no use: it ends with 2."""
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == cli.USAGE


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """The program's name, its version, and Python's."""
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])

    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"ollama-throughput-exporter {__version__} (Python 3.")


def test_help_names_every_command_and_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    """The commands are in the program's help, the flags that set things in each command's."""
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])
    text = capsys.readouterr().out

    assert end.value.code == 0
    for command in ("run", "probe", "calibrate", "check-config", "gpus", "demo", "healthcheck"):
        assert f"\n    {command} " in text
        if command != "healthcheck":
            with pytest.raises(SystemExit):
                cli.main([command, "--help"])
            flags = capsys.readouterr().out
            assert "--web.listen-address ADDRESS" in flags
            assert ("--config.file FILE" in flags) == (command != "demo")  # which has settings of its own


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("measure",), "invalid choice: 'measure'"),
        (("run", "--intervall", "5m"), "--intervall"),
        (("--intervall", "5m"), "--intervall"),
        (("calibrate", "--runs", "0"), "give 1 or more"),
        (("calibrate", "--runs", "-3"), "give 1 or more"),
        (("calibrate", "--runs", "many"), "give 1 or more"),
        (("demo", "--drop-after", "120"), "write a number and a unit"),
        (("check-config", "--json"), "--json"),
        (("demo", "--url", "http://a:11434"), "--url"),
    ],
)
def test_wrong_usage_ends_with_2(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And says what is wrong."""
    usage_error(*words)

    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", [(), ("run",), ("probe",), ("calibrate",), ("check-config",), ("gpus",)])
def test_bad_settings_end_each_command_with_1(
    command: tuple[str, ...], config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a command, it is `run` that refuses them. The key, the value and the remedy are told, nothing else."""
    config_file.write_text("interval: 15\n")

    assert cli.main([*command, "--config.file", str(config_file)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    [line] = said.err.splitlines()
    assert line.startswith(f"{config_file}: interval: ")
    assert "30s" in line


def test_without_a_command_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """It begins to listen; here that fails, as somebody else does already."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert cli.main(["--url", "http://127.0.0.1:9", "--web.listen-address", address]) == 1

    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"web.listen_address: cannot listen on {address}: ")


def test_check_config_accepts_good_settings(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says that they are good, and how many targets there are."""
    config_file.write_text("targets:\n- {url: 'http://a:11434', models: [m]}\n- {url: 'http://b:11434', models: [m]}\n")

    assert cli.main(["check-config", "--config.file", str(config_file)]) == 0
    assert capsys.readouterr().out == "The settings are good: 2 targets.\n"


def test_check_config_warns_of_what_is_hardly_meant(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Doubtful settings are good ones with a warning."""
    config_file.write_text("interval: 2s\ntargets:\n- {url: 'http://a:11434', models: [m]}\n")

    assert cli.main(["check-config", "--config.file", str(config_file)]) == 0
    *warnings, verdict = capsys.readouterr().out.splitlines()
    assert warnings
    assert all(warning.startswith("warning: target 'a:11434'") for warning in warnings)
    assert verdict == "The settings are good: 1 target."


@pytest.mark.parametrize("command", ["probe", "calibrate"])
def test_an_unknown_target_is_refused_with_those_there_are(
    command: str, config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--target` chooses one of the configured ones."""
    config_file.write_text("targets:\n- {name: one, url: 'http://a:11434'}\n- {name: two, url: 'http://b:11434'}\n")

    assert cli.main([command, "--config.file", str(config_file), "--target", "three"]) == 1
    assert capsys.readouterr().err == "--target: 'three' is not configured: choose one of one, two\n"


def test_target_chooses_one(config_file: Path) -> None:
    """Only that one is probed; without it, all are."""
    config_file.write_text("targets:\n- {name: one, url: 'http://a:11434'}\n- {name: two, url: 'http://b:11434'}\n")
    words = ["probe", "--config.file", str(config_file)]

    assert [plan.name for plan in cli._targets(cli.parser().parse_args([*words, "--target", "two"]))] == ["two"]
    assert [plan.name for plan in cli._targets(cli.parser().parse_args(words))] == ["one", "two"]


def test_calibrate_refuses_an_output_before_it_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten probes later would be too late."""
    place = tmp_path / "missing" / "rates.yml"

    assert cli.main(["calibrate", "--url", "http://127.0.0.1:9", "--output", str(place)]) == 1
    assert capsys.readouterr().err == (
        f"--output: cannot write {place}: No such file or directory: choose another place\n"
    )


def test_calibrate_writes_its_lines_where_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output stays empty; a server that is down makes it 1."""
    place = tmp_path / "rates.yml"

    assert cli.main(["calibrate", "--url", "http://127.0.0.1:9", "--runs", "1", "--output", str(place)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert f"Written to {place}" in said.err
    assert place.read_text().startswith("targets:\n  - name: ")


def test_a_failed_probe_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    """The reason and the remedy are told."""
    assert cli.main(["probe", "--url", "http://127.0.0.1:9"]) == 1
    failure, remedy = capsys.readouterr().out.splitlines()
    assert "failed: connect: http://127.0.0.1:9: " in failure
    assert remedy.startswith("Remedy: is Ollama running there")


def test_drop_after_is_a_duration() -> None:
    """Written as Go writes it."""
    assert cli.parser().parse_args(["demo"]).drop_after == Duration(120)
    assert cli.parser().parse_args(["demo", "--drop-after", "1m30s"]).drop_after == Duration(90)


def test_the_light_commands_import_neither_langchain_nor_a_server() -> None:
    """`check-config` and `--version` are quick."""
    program = (
        "import sys\nfrom exporter.cli import main\nstatus = main(['check-config'])\n"
        "print(status, *sys.modules, file=sys.stderr)"
    )
    run = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, timeout=60, check=True)
    status, *modules = run.stderr.split()

    assert status == "0"
    assert {"langchain_core", "aiohttp", "rich", "httpx", "prometheus_client", "apscheduler"}.isdisjoint(modules)
