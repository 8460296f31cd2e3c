"""The wheel: what it holds, what a package index shows, and README.md without the repository."""

import re
import shutil
import subprocess
import sys
from email import message_from_bytes
from importlib.metadata import version
from pathlib import Path

import pytest
from test_docs import README, console, examples, same

from clipkit.base.version import __version__

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://example.org/clipkit"
BUILD = "from setuptools import build_meta; build_meta.build_wheel('dist')"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of an installed wheel, built without a warning from what the Dockerfile copies."""
    if int(version("setuptools").split(".")[0]) < 77:
        pytest.skip("pyproject.toml needs setuptools 77")
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for line in re.findall("^COPY (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE):
        for name in line.split()[:-1]:
            copy(ROOT / name, source / name)
    with (source / "CITATION.cff").open("a") as citation:
        citation.write(f"repository-code: {REPOSITORY}\n")
    run(sys.executable, "-W", "error", "-c", BUILD, cwd=source)
    (wheel,) = (source / "dist").iterdir()
    options = ("--quiet", "--no-deps", "--no-index", "--no-compile", "--target", site)
    run(sys.executable, "-m", "pip", "install", *options, wheel)
    return site


def copy(source, target):
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def run(*words, **options):
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.long
def test_a_package_index_shows_links_and_pictures_of_the_repository(site):
    assert {path.name for path in site.iterdir()} == {
        "bin",
        "clipkit",
        f"clipkit_vl-{__version__}.dist-info",
    }
    assert (site / "clipkit" / "py.typed").is_file()  # type checkers read the annotations
    metadata = (site / f"clipkit_vl-{__version__}.dist-info" / "METADATA").read_bytes()
    shown = message_from_bytes(metadata)
    assert shown["Project-URL"] == f"Repository, {REPOSITORY}"
    assert shown["Description-Content-Type"] == "text/markdown"
    description = shown.get_payload(decode=True).decode()
    links = re.findall(r"\]\(([^)]+)\)", description)
    assert [link for link in links if not link.startswith("https://")] == []
    assert "](docs/images/tau.png)" in README.read_text()
    assert f"]({REPOSITORY}/raw/HEAD/docs/images/tau.png)" in description
    assert f"]({REPOSITORY}/blob/HEAD/docs/api.md)" in description


@pytest.mark.exhaustive
def test_readme_runs_in_an_empty_folder_with_only_the_wheel(site, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(site))
    found = run(sys.executable, "-c", "import clipkit; print(clipkit.__file__)", cwd=tmp_path)
    assert Path(found.strip()).is_relative_to(site)
    commands = console(README)
    assert len(commands) > 15
    for command, output in commands:
        same(command, output, examples.run(command, tmp_path, site / "bin"))
