"""make site: all pages are in it, every link leads somewhere, and nothing comes from elsewhere."""

import json
import re
import sys
import tomllib
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.main import get_command

from clipkit.cli import COMMANDS, app

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import website  # noqa: E402

RUN_NOTEBOOK = website.run_notebook  # takes half a minute
PICTURES = get_command(app).commands["plot"].commands
LOADED = {"script", "img", "link", "iframe", "source", "video", "audio", "object", "embed"}


class Page(HTMLParser):
    """The ids of a page, the addresses that it links to, and those that it loads."""

    def __init__(self, path):
        super().__init__()
        self.ids = {""}
        self.linked = []
        self.loaded = []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids.add(values.get("id") or "")
        addresses = self.loaded if tag in LOADED else self.linked
        addresses += [values[name] for name in ("href", "src", "data") if values.get(name)]


def pages_of(entry):
    """Return the pages below an entry of the navigation."""
    if isinstance(entry, str):
        return [entry]
    entries = entry.values() if isinstance(entry, dict) else entry
    return [page for below in entries for page in pages_of(below)]


@pytest.fixture(autouse=True)
def _notebook_is_not_run(monkeypatch):
    monkeypatch.setattr(website, "run_notebook", lambda notebook: None)


def test_the_navigation_names_every_page():
    config = tomllib.loads((ROOT / "docs" / "zensical.toml").read_text())
    *pages, report = sorted(pages_of(config["project"]["nav"]), key=lambda page: ".html" in page)
    assert sorted(map(Path, pages)) == sorted(map(website.on_site, website.PAGES))
    assert report == website.REPORT


def test_only_links_to_pages_stay_links():
    readme = website.page_text(ROOT / "README.md")
    assert "[docs/api.md](docs/api.md)" in readme
    assert "](tests/test_thesis.py)" not in readme
    assert "tests/test_thesis.py" in readme
    for page in website.PAGES:
        assert not re.search(r"^<!--.*-->\n\S", website.page_text(page), re.MULTILINE)


def test_the_notebook_is_a_page_of_its_texts_and_its_code():
    assert "](docs/tutorial.md)" in website.page_text(ROOT / "README.md")
    text = website.page_text(ROOT / "docs" / "tutorial.ipynb")
    assert text.startswith("# ")
    assert "\n\n```python\nimport clipkit\n" in text
    assert "[README.md](../README.md)" in text


def test_the_first_page_of_the_site_links_its_example_report_before_the_first_picture():
    text = website.page_text(ROOT / "README.md")
    assert 0 < text.index(f"]({website.REPORT})") < text.index("![")
    assert website.REPORT not in (ROOT / "README.md").read_text()  # the repository has none


@pytest.mark.parametrize("command", [*COMMANDS, *(f"plot {name}" for name in PICTURES)])
def test_the_page_of_a_command_on_the_site_has_a_row_for_each_option(command):
    first = command.split()[0]
    text = website.page_text(ROOT / "docs" / "commands" / f"{first}.md")
    if command.startswith("plot "):
        text = re.search(rf"^## {command}\n((?:(?!## ).*\n)*)", text, re.MULTILINE)[1]
    assert "--help` lists" not in text
    assert "<!-- options" not in text
    for name in names_of(command):
        assert text.count(f"\n| `{name}` ") == 1, name


def names_of(command):
    """Return the options of a command, or the commands of a sub-app."""
    entry = get_command(app)
    for word in command.split():
        entry = entry.commands[word]
    if hasattr(entry, "commands"):
        return list(entry.commands)
    shown = [option for option in entry.params if not option.hidden and option.name != "help"]
    return [option.opts[0] for option in shown if option.opts[0].startswith("-")]


def test_links_in_code_stay(tmp_path):
    page = tmp_path / "page.md"
    link = "[a](page.md)"
    page.write_text(f"é {link} `{link}`\n\n```md\n{link}\n```\n\n{link}\n", encoding="utf-8")
    text = f"é a `{link}`\n\n```md\n{link}\n```\n\na\n"
    assert website.page_text(page) == text


@pytest.mark.exhaustive
def test_the_site_is_whole_and_loads_nothing_from_elsewhere(tmp_path, monkeypatch):
    pytest.importorskip("zensical", reason="zensical is not installed: pip install '.[site]'")
    monkeypatch.setattr(website, "run_notebook", RUN_NOTEBOOK)
    first = website.build(tmp_path)
    pages = {path: Page(path) for path in first.parent.rglob("*.html") if path.name != "404.html"}
    assert len(pages) == len(website.PAGES) + 1
    assert "Album of images" in (first.parent / website.REPORT).read_text()
    found = json.loads((first.parent / "search.json").read_text())["items"]
    found = {item["location"].partition("#")[0] for item in found}
    assert {f"docs/commands/{command}.html" for command in COMMANDS} <= found
    assert "CHANGELOG.html" not in found  # it has the words of all commands
    for path, page in pages.items():
        for address in page.loaded:
            assert not urllib.parse.urlsplit(address).netloc, f"{path}: {address}"
        for address in page.linked + page.loaded:
            url = urllib.parse.urlsplit(address)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / urllib.parse.unquote(url.path)).resolve() if url.path else path
            assert target.exists(), f"{path}: {address}"
            if target in pages:
                assert url.fragment in pages[target].ids, f"{path}: {address}"
    commands = (first.parent / "docs" / "commands" / "embed.html").read_text()
    source = website.page_text(ROOT / "docs" / "commands" / "embed.md")
    source = re.sub(r"^```.*?^```$", "", source, flags=re.MULTILINE | re.DOTALL)
    assert commands.count("<table>") == len(
        re.findall(r"^\|[-:| ]*-[-:| ]*\|$", source, re.MULTILINE)
    )
    tutorial = (first.parent / "docs" / "tutorial.html").read_text()
    assert tutorial.count('<div class="clipkit result">') == 7
    assert tutorial.count('src="data:image/png') == 2
    for style in first.parent.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//|@import", style.read_text()), style


@pytest.mark.exhaustive
@pytest.mark.parametrize("link", ["[a](nowhere.md)", "[a](commands/embed.md#nowhere)"])
def test_a_broken_link_is_an_error(tmp_path, monkeypatch, link):
    pytest.importorskip("zensical", reason="zensical is not installed: pip install '.[site]'")
    text_of = website.page_text

    def spoiled(page):
        return text_of(page) + f"\n{link}\n" * (page.name == "scale.md")

    monkeypatch.setattr(website, "page_text", spoiled)
    monkeypatch.setattr(website, "make_report", lambda page: page.write_text(""))
    with pytest.raises(website.subprocess.CalledProcessError):
        website.build(tmp_path)


@pytest.mark.exhaustive
def test_the_site_has_no_serious_fault_of_accessibility_and_keys_reach_its_code(
    browser, tmp_path, monkeypatch
):
    pytest.importorskip("zensical", reason="zensical is not installed: pip install '.[site]'")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is missing")
    monkeypatch.setattr(website, "make_report", lambda page: page.write_text(""))
    monkeypatch.setattr(website, "run_notebook", RUN_NOTEBOOK)
    first = website.build(tmp_path)
    assert 'code tabindex="0" role="group"' in first.read_text()
    for name, width, scheme in (
        ("index.html", 1600, "light"),
        ("docs/commands/embed.html", 390, "dark"),
        ("docs/thesis.html", 1600, "dark"),
        ("docs/tutorial.html", 390, "light"),
        ("docs/tutorial.html", 1600, "dark"),
        ("docs/commands/plot.html", 1024, "light"),
    ):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.goto((first.parent / name).as_uri())
        if "thesis" in name:
            page.locator(".md-typeset__scrollwrap[tabindex='0']").first.wait_for()
        violations = axe.Axe().run(page).response["violations"]
        assert [
            (found["id"], found["nodes"][0]["html"])
            for found in violations
            if found["impact"] in ("serious", "critical") or found["id"] == "landmark-unique"
        ] == []
        page.close()
