"""Documentation: every command line runs, every output is current, every link exists."""

import contextlib
import re
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from factories import write_photos
from shell import shell
from typer.main import get_command

from clipkit.base.version import __version__
from clipkit.cli import COMMANDS, app

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import examples  # noqa: E402


def fenced(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


README = ROOT / "README.md"
PAGES = [*examples.PAGES, ROOT / "prompts" / "README.md"]
SESSIONS = [
    pages
    for pages in [*examples.SESSIONS, [ROOT / "prompts" / "README.md"]]
    if any(fenced(page, "console") for page in pages)
]
OTHER_PAGES = [ROOT / name for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
NUMBER = re.compile(r"[-+]?\d+(?:\.\w+)*(?:e-?\d+)?")  # or a version
DIGEST = re.compile(r"\bsha256:[0-9a-f]{8,64}")
# Weights are the same bytes on every processor. Only a model's digest is printed in full.
OF_WEIGHTS = re.compile(rf"\bweights\s+{DIGEST.pattern}|\bsha256:[0-9a-f]{{64}}")
VARIABLE = re.compile(r"(export )?[A-Z_]+=")
RULE = re.compile("─+|-{3,}")  # of a table, as long as its widest numbers
# With the libraries that made the pages, numbers are compared, too, on every processor.
IS_EXACT = examples.versions() == examples.VERSIONS.read_text()


def name(page):
    return str(page.relative_to(ROOT))


@pytest.fixture
def programs(fork_server):
    """The folder of a `clipkit` that starts fast."""
    fork_server.launch()
    return fork_server.venv / "bin"


@pytest.mark.whole
@pytest.mark.parametrize(
    "pages",
    [
        pytest.param(
            pages,
            id=name(pages[0]),
            marks=[] if pages[0] == README else [pytest.mark.exhaustive],
        )
        for pages in SESSIONS
    ],
)
def test_console_examples_print_what_the_page_shows(pages, programs, tmp_path):
    for page in pages:
        examples.write_programs(page, tmp_path)
    print_what_is_shown([shown for page in pages for shown in console(page)], tmp_path, programs)
    code = "\n".join(block for page in pages for block in fenced(page, "python"))
    run = shell(f"python - <<'END'\n{code}\nEND", tmp_path)  # on the files of the commands above
    assert run.returncode == 0, run.stderr


def console(page):
    """Return the commands of a page, each with its output."""
    return [pair for block in fenced(page, "console") for pair in examples.examples(block)]


def print_what_is_shown(shown, folder, programs):
    (folder / "prompts").symlink_to(ROOT / "prompts")
    for command, output in shown:
        same(command, output, examples.run(command, folder, programs))


def same(command, shown, printed):
    """Equal; with other libraries than the page's, equal but for numbers and digests.

    A row that lies on the margin of a classifier may fall on either side, by the last bits of a
    product: an accuracy then moves by a row.
    """
    message = f"{command}: make docs brings the page up to date"
    assert mask(shown) == mask(printed), message
    if shown != printed and IS_EXACT:
        assert OF_WEIGHTS.findall(shown) == OF_WEIGHTS.findall(printed), message
        pairs = zip(numbers_in(shown), numbers_in(printed), strict=True)
        different = [pair for pair in pairs if pair[0] != pair[1]]
        numbers = np.array(different, float)
        np.testing.assert_allclose(*numbers.T, rtol=0.005, atol=0.001, err_msg=message)


def numbers_in(text):
    return NUMBER.findall(DIGEST.sub("DIGEST", text))


def mask(text):
    """Hide numbers and digests, and the width of tables, which depends on them."""
    text = NUMBER.sub("N", DIGEST.sub("DIGEST", text))
    return " ".join(RULE.sub(" ", text).split())


def test_the_numbers_of_the_pages_are_those_of_these_libraries():
    if not IS_EXACT:
        pytest.skip(f"compared by words alone: made with {examples.VERSIONS.read_text().split()}")


@pytest.mark.parametrize("shape", ["library\t{}", "tiny, library {}, dim 64", '"library": "{}",'])
def test_a_mask_hides_versions_of_libraries(shape):
    here, there = (shape.format(f"transformers {version}") for version in ("5.24.0", "6.1.0.dev0"))
    assert mask(here) == mask(there) != mask(there.replace("transformers", "keras"))


def test_a_mask_hides_digests():
    here, there = "digest\tsha256:7754d97c", "digest\tsha256:8537a994"
    assert mask(here) == mask(there) != mask(there.replace("digest", "weights"))
    assert numbers_in(here) == []


def test_a_mask_hides_the_width_of_a_table():
    here, there = "| p |\n|-----:|\n| 0.25 |", "| p |\n|----:|\n| 0.2 |"
    assert mask(here) == mask(there) != mask(there.replace("| 0.2", "| -"))


@pytest.mark.whole
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=name(page), marks=[] if page == README else [pytest.mark.exhaustive])
        for page in PAGES
        if fenced(page, "sh")
    ],
)
def test_other_commands_run_on_what_is_at_hand(page, programs, tmp_path):
    (tmp_path / "prompts").symlink_to(ROOT / "prompts")
    make_photos(tmp_path)
    variables = "export CLIPKIT_MODEL=tiny; "
    for block in fenced(page, "sh"):
        lines = re.sub(r"\\\n\s*", " ", block).splitlines()
        variables += "".join(f"{line}; " for line in lines if VARIABLE.match(line))
        for line in (line for line in lines if "clipkit" in line or line.startswith("printf")):
            here = re.sub(r"\bcifar100\b|\bcifar10\b|\bfood101\b", "digits --limit 200", line)
            here = here.replace("--classes digits --limit 200", "--classes digits")
            here = here.replace("embed shapes", "embed shapes --limit 500")
            run = shell(variables + here, tmp_path, programs)
            assert run.returncode == 0, f"{line}\n{run.stderr}"


def make_photos(folder):
    """Make photos of two classes, and a table of attributes as a spreadsheet writes it."""
    rows = write_photos(folder / "photos")
    lines = [f"{name};{colour}" for name, colour in rows]
    (folder / "table.csv").write_text("\n".join(["filename;colour", *lines]))


@pytest.mark.long
def test_make_knows_every_line_that_a_page_gives_it(tmp_path):
    lines = [
        line
        for page in PAGES
        for line in re.findall(r"^ *(make (?!-C study).+)$", page.read_text(), re.MULTILINE)
    ]
    assert len(lines) > 9
    for line in lines:
        dry = line.replace("make ", f"unset MAKEFLAGS MAKELEVEL; make -n RESULTS={tmp_path} ", 1)
        run = shell(dry, ROOT)
        assert run.returncode == 0, f"{line}\n{run.stderr}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_page_with_an_example_python_and_a_place_for_its_options(command):
    text = (ROOT / "docs" / "commands" / f"{command}.md").read_text()
    assert "```console" in text
    assert "```python" in text
    assert text.count(f"<!-- options {command} -->\n`clipkit {command} --help` lists") == 1


def test_every_picture_is_shown_in_its_section_with_a_place_for_its_options():
    text = (ROOT / "docs" / "commands" / "plot.md").read_text()
    sections = dict(re.findall(r"^## plot (\w+)\n((?:(?!## ).*\n)*)", text, re.MULTILINE))
    assert sections.keys() == get_command(app).commands["plot"].commands.keys()  # type: ignore[attr-defined]
    for picture, section in sections.items():
        assert "![" in section, picture
        assert section.endswith((f"\n<!-- options plot {picture} -->\n", "-->\n\n")), picture


def test_the_models_that_are_read_are_listed():
    text = (ROOT / "docs" / "commands" / "embed-models.md").read_text()
    assert examples.models() in text, "make docs brings the page up to date"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "docs" / "tutorial.ipynb"], ids=name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", [*PAGES, *OTHER_PAGES], ids=name)
def test_prose_wraps_at_100_columns(page):
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in prose.splitlines() if not line.lstrip().startswith(("|", "![", "<"))]
    assert [line for line in lines if len(line) > 100 and not line.startswith("    make")] == []


def test_every_name_in_the_table_of_modules_can_be_imported():
    table = (ROOT / "docs" / "api.md").read_text().split("## Modules")[1]
    rows = re.findall(r"^\| (`clipkit.*?) \| (.*?) \|$", table, re.MULTILINE)
    assert len(rows) > 15
    for modules, names in rows:
        packages = [import_module(module) for module in re.findall("`(.*?)`", modules)]
        for path in re.findall(r"`([\w.]+)`", names):
            assert any(resolves(package, path) for package in packages), path


def resolves(package, path):
    """Whether a package has a name, which may be that of a submodule's function."""
    with contextlib.suppress(AttributeError, ModuleNotFoundError):
        module, _, attribute = path.rpartition(".")
        if module:
            package = import_module(f"{package.__name__}.{module}")
        getattr(package, attribute)
        return True
    return False


def test_the_design_page_names_every_module():
    text = (ROOT / "docs" / "design.md").read_text()
    modules = set()
    for path in (ROOT / "clipkit").rglob("*.py"):
        if path.parent.name != "commands":  # one for each command
            modules.add(path)
    named = set(re.findall(r"[\w]+\.py", text))
    assert sorted({path.name for path in modules} - named) == []


def test_the_citation_has_the_version_and_the_changelog_what_comes_next():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert "[Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
