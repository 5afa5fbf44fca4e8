"""The command line: what is printed, and the exit status."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from exporter import __version__, cli
from exporter.durations import Duration

pytestmark = pytest.mark.usefixtures("logging_restored")


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """Return the path of a configuration file that the test writes."""
    return tmp_path / "config.yml"


def usage_error(*words: str) -> None:
    """Run an invalid command line and check that it exits with 2."""
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == cli.USAGE


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """The name and version of the program, and of Python."""
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])

    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"ollama-throughput-exporter {__version__} (Python 3.")


def test_help_lists_commands_and_flags(capsys: pytest.CaptureFixture[str]) -> None:
    """The program's help lists the commands; a command's help lists its flags with default and variable."""
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
            has_effect = command in {"run", "check-config", "demo"}
            assert ("--web.listen-address ADDRESS" in flags) == has_effect
            assert ("--config.file FILE" in flags) == (command != "demo")  # the demo has its own configuration
            assert "OLLAMA_PROBE_LOG__LEVEL" in flags
            assert "default: info" in flags


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("measure",), "invalid choice: 'measure'"),
        (("run", "--intervall", "5m"), "--intervall"),
        (("--intervall", "5m"), "--intervall"),
        (("calibrate", "--runs", "0"), "'0'"),
        (("calibrate", "--runs", "-3"), "'-3'"),
        (("calibrate", "--runs", "many"), "'many'"),
        (("demo", "--drop-after", "120"), "--drop-after"),
        (("check-config", "--json"), "--json"),
        (("demo", "--url", "http://a:11434"), "--url"),
        (("probe", "--ulr", "http://a:11434"), "usage: ollama-throughput-exporter probe"),
        (("probe", "--ulr", "http://a:11434"), "Did you mean --url?"),
        (("--web.listen-adress=:1",), "Did you mean --web.listen-address?"),
        (("demo", "--ulr=x"), "unrecognized arguments"),
    ],
)
def test_usage_errors_exit_with_2(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The message contains the invalid argument."""
    usage_error(*words)

    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", [(), ("run",), ("probe",), ("calibrate",), ("check-config",), ("gpus",)])
def test_bad_settings_exit_with_1(
    command: tuple[str, ...], config_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line on standard error names the file and the key; without a command, `run` is assumed."""
    config_file.write_text("interval: 15\n")

    assert cli.main([*command, "--config.file", str(config_file)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = printed.err.splitlines()
    assert line.startswith(f"{config_file}: interval")


def test_without_a_command_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """It starts to listen, which fails here because the port is in use."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert cli.main(["--url", "http://127.0.0.1:9", "--web.listen-address", address]) == 1

    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("web.listen_address")
    assert address in last


def test_check_config_accepts_good_settings(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says that the configuration is valid and counts the targets."""
    config_file.write_text("targets:\n- {url: 'http://a:11434', models: [m]}\n- {url: 'http://b:11434', models: [m]}\n")

    assert cli.main(["check-config", "--config.file", str(config_file)]) == 0
    assert capsys.readouterr().out == "Configuration is valid: 2 targets.\n"


def test_check_config_takes_a_file_as_argument(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`check-config FILE` is the same as `check-config --config.file FILE`."""
    config_file.write_text("interval: 15\n")

    assert cli.main(["check-config", str(config_file)]) == 1
    assert capsys.readouterr().err.startswith(f"{config_file}: interval")


@pytest.mark.parametrize("command", ["probe", "calibrate", "gpus"])
def test_flags_without_effect_are_accepted(command: str) -> None:
    """The flags of `run` can be used with every command that reads the configuration."""
    words = [command, "--interval", "5m", "--web.listen-address", ":1"]
    assert cli.parser().parse_args(words).interval == "5m"


def test_check_config_warns(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A warning goes to standard error and does not change the exit status."""
    config_file.write_text("interval: 2s\ntargets:\n- {url: 'http://a:11434', models: [m]}\n")

    assert cli.main(["check-config", "--config.file", str(config_file)]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("warning: target 'a:11434'")
    assert printed.out == "Configuration is valid: 1 target.\n"


@pytest.mark.parametrize("command", ["probe", "calibrate"])
def test_unknown_target_is_refused(command: str, config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--target` must name a configured target; the message lists them."""
    config_file.write_text("targets:\n- {name: one, url: 'http://a:11434'}\n- {name: two, url: 'http://b:11434'}\n")

    assert cli.main([command, "--config.file", str(config_file), "--target", "three"]) == 1
    error = capsys.readouterr().err
    assert "'three'" in error
    assert "one, two" in error


def test_target_selects_one(config_file: Path) -> None:
    """Only that target is used; without the flag, all are."""
    config_file.write_text("targets:\n- {name: one, url: 'http://a:11434'}\n- {name: two, url: 'http://b:11434'}\n")
    words = ["probe", "--config.file", str(config_file)]

    assert [plan.name for plan in cli._targets(cli.parser().parse_args([*words, "--target", "two"]))] == ["two"]
    assert [plan.name for plan in cli._targets(cli.parser().parse_args(words))] == ["one", "two"]


def test_calibrate_checks_its_output_file_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that cannot be written is refused before the first probe."""
    place = tmp_path / "missing" / "rates.yml"

    assert cli.main(["calibrate", "--url", "http://127.0.0.1:9", "--output", str(place)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("--output")
    assert str(place) in error


@pytest.mark.parametrize("content", [None, "targets: []"])
def test_calibrate_without_a_result_leaves_its_output_file(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that is down makes the exit status 1; an existing file stays, and no empty one is created."""
    place = tmp_path / "rates.yml"
    if content is not None:
        place.write_text(content)

    assert cli.main(["calibrate", "--url", "http://127.0.0.1:9", "--output", str(place)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "no configuration is written" in printed.err
    assert (place.read_text() if place.exists() else None) == content


def test_calibrate_writes_to_its_output_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Standard output stays empty, and standard error names the file."""

    async def calibrate(*_: object, **__: object) -> tuple[str, bool]:
        return "targets:\n", True

    monkeypatch.setattr("exporter.commands.calibrate.calibrate", calibrate)
    place = tmp_path / "rates.yml"

    assert cli.main(["calibrate", "--url", "http://127.0.0.1:9", "--output", str(place)]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert str(place) in printed.err
    assert place.read_text() == "targets:\n"


def test_failed_probe_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    """The reason and the remedy are printed on standard error; standard output is for results."""
    assert cli.main(["probe", "--url", "http://127.0.0.1:9"]) == 1
    printed = capsys.readouterr()
    failure, remedy = printed.err.splitlines()
    assert printed.out == ""
    assert "failed: connect: http://127.0.0.1:9: " in failure
    assert remedy.startswith("Remedy: ")


def test_drop_after_is_a_duration() -> None:
    """Go's notation is accepted."""
    assert cli.parser().parse_args(["demo"]).drop_after == Duration(120)
    assert cli.parser().parse_args(["demo", "--drop-after", "1m30s"]).drop_after == Duration(90)


def test_check_config_imports_little() -> None:
    """Neither LangChain, nor an HTTP client, nor a server."""
    program = (
        "import sys\nfrom exporter.cli import main\nstatus = main(['check-config', '--url', 'http://a:1'])\n"
        "print(status, *sys.modules, file=sys.stderr)"
    )
    run = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, timeout=60, check=True)
    status, *modules = run.stderr.split()

    assert status == "0"
    assert {"langchain_core", "aiohttp", "rich", "httpx", "prometheus_client", "apscheduler"}.isdisjoint(modules)
