"""What a user installs: the wheel, its metadata, and the locks."""

from __future__ import annotations

import email.policy
import re
import subprocess
import sys
import zipfile
from email.message import EmailMessage
from pathlib import Path

import pytest

from exporter import __version__

ROOT = Path(__file__).parent.parent
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel with what is installed here, fetching nothing."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [*PIP, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, timeout=100)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> EmailMessage:
    """Return the wheel's metadata."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name), _class=EmailMessage, policy=email.policy.default)


def test_wheel_holds_the_package_whole_and_alone(wheel: Path) -> None:
    """The wheel holds every file of the package, its typing marker and the licence, and no test or build file."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE")]
    package = [file for file in (ROOT / "exporter").rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    assert names == {file.relative_to(ROOT).as_posix() for file in package}
    assert "exporter/py.typed" in names
    assert len(licences) == 1


def test_metadata_agrees_with_the_project(metadata: EmailMessage) -> None:
    """Name, version, licence and Python versions are the project's; the version heads the changelog too."""
    assert metadata["Name"] == "ollama-throughput-exporter"
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == "<3.14,>=3.11"
    assert set(metadata.get_all("Provides-Extra", [])) == {"demo", "test", "dev"}
    assert (ROOT / "CHANGELOG.md").read_text().startswith(f"## {__version__} / ")


def test_wheel_runs_away_from_its_sources(wheel: Path, tmp_path: Path) -> None:
    """The installed command says its version where neither the checkout nor an editable install is at hand."""
    installed = tmp_path / "installed"
    subprocess.run(
        [*PIP, "install", "--no-deps", "--no-index", "--target", str(installed), str(wheel)], check=True, timeout=100
    )
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import exporter; print(exporter.__file__);"
        "from exporter.cli import main; sys.argv[0] = 'ollama-throughput-exporter'; sys.exit(main())"
    )
    answer = subprocess.run(
        [sys.executable, "-I", "-c", code, str(installed), "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    where, said = answer.stdout.split("\n", 1)
    assert Path(where).parent == installed / "exporter"
    assert __version__ in said


def test_every_requirement_is_locked(metadata: EmailMessage) -> None:
    """Each requirement of the package is pinned in the lock that its users install."""
    pins = {lock.stem: set(re.findall(r"^([\w.-]+)==", lock.read_text(), re.MULTILINE)) for lock in LOCKS}
    for requirement in metadata.get_all("Requires-Dist", []):
        name = re.match(r"[\w-]+", requirement)
        assert name
        extra = re.search(r'extra == "(\w+)"', requirement.replace("'", '"'))
        lock = {None: "run", "demo": "demo"}.get(extra and extra[1], "dev")
        assert name[0].lower() in pins[lock], f"{name[0]} is not in requirements/{lock}.txt: run `make lock`"
    assert pins["run"] <= pins["demo"] <= pins["dev"]
    assert pins["build"] <= pins["dev"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_lock_is_pinned_hashed_and_names_no_host(lock: Path) -> None:
    """Every line of a lock is an exact version with hashes, and no index, host or path is in it: any mirror serves."""
    text = lock.read_text()
    entries = re.split(r"\n(?=\S)", "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")))
    assert entries
    for entry in entries:
        assert re.match(r"[\w.-]+(\[[\w,]+\])?==[\w.!+]+( ;[^\\]+)? \\\n    --hash=sha256:[0-9a-f]{64}", entry), entry
    assert not re.search(r"://|--(index|extra-index|find-links|trusted)|@ |file:", text)


def test_locks_agree() -> None:
    """A package has one version in all locks, so that what was tested is what runs."""
    versions: dict[str, set[str]] = {}
    for lock in LOCKS:
        for name, version in re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(), re.MULTILINE):
            versions.setdefault(name, set()).add(version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}
