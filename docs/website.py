"""Build README.md, docs/ and the other pages as a site in build/site/html, by zensical.

The pages are copied to where they are in the repository, so that their links stay as they are. The
notebook is run, and becomes a page of its texts, its code and what the code shows. A link to a
file that is not a page is replaced by its text. A broken link is an error. A comment
`<!-- options COMMAND -->` and the sentence below it are replaced by the table of the command's
options. The site has a report that `EXAMPLE` makes of the bundled data set and model; a link to it
replaces `<!-- report -->` and the sentence below.

    python docs/website.py            # build the site
    python docs/website.py --picture  # make docs/images/report.png of that report, with Chromium
"""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import examples
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "CHANGELOG")),
    ROOT / "prompts" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "docs" / "tutorial.ipynb",
    *sorted((ROOT / "docs" / "commands").glob("*.md")),
]
# Code, which stays as it is, or a link: its text and its target
CODE_OR_LINK = re.compile(
    r"^ *(?P<fence>```|~~~)[\s\S]*?^ *(?P=fence)|`+[^`]+`+"
    r"|(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)#\s]+)[^)]*\)",
    re.MULTILINE,
)
EXAMPLE = """
clipkit embed shapes --limit 500 --model tiny -o img.h5
clipkit embed shapes --limit 500 --model tiny --untrained 7 -o control.h5
clipkit probe img.h5 -o probe.h5
clipkit probe control.h5 -o control.probe.h5
clipkit textembed --classes img.h5 --template "a photo of a {}" --model tiny -o classes.h5
clipkit logits img.h5 classes.h5 -o logits.h5
clipkit zeroshot logits.h5 -o zeroshot.h5
clipkit textembed --classes attributes/shapes --template "{}" --model tiny -o words.h5
clipkit attributes img.h5 words.h5 --table shapes --control control.h5 -o attributes.h5
clipkit report probe.h5 zeroshot.h5 attributes.h5 logits.h5 --control control.probe.h5 \
  --images shapes --album 100 -o report.html
"""
REPORT = "docs/example-report.html"
# The site's search has no weights. The changelog has the words of every command, and would stand
# before the pages of some.
UNSEARCHED = [ROOT / "CHANGELOG.md"]
NO_SEARCH = "---\nsearch:\n  exclude: true\n---\n\n"
PICTURE_SIZE = 1100, 975  # pixels; the summary
CODE = "<pre><span></span><code>"
FOCUSABLE = '<pre><span></span><code tabindex="0" role="group" aria-label="Code">'
COMMENT = re.compile(r"^(<!--.*-->)\n", re.MULTILINE)
REPORT_LINK = f"[An example report]({REPORT}) shows what the commands find.\n"
REPORT_PLACE = re.compile(r"^<!-- report -->\n(?:.+\n)*", re.MULTILINE)
OPTIONS = re.compile(r"^<!-- options ([\w-]+(?: [\w-]+)?) -->\n(?:.+\n)*", re.MULTILINE)


def options(command: str) -> str:
    """Return the table of a command's arguments and options, or of the commands of a sub-app.

    A command of a sub-app is named after it: `plot temperature`.
    """
    import typer.main

    from clipkit.cli import app

    entry: Any = typer.main.get_command(app)
    for word in command.split():
        entry = entry.commands[word]
    if hasattr(entry, "commands"):
        rows = ["| Command | What it does |", "|---|---|"]
        for name, sub_command in entry.commands.items():
            rows.append(f"| `{name}` | {sub_command.help.splitlines()[0]} |")
    else:
        rows = ["| Option | What it does | Default |", "|---|---|---|"]
        for parameter in entry.params:
            if "--help" not in parameter.opts and not parameter.hidden:
                rows.append(_option_row(parameter))
    return "\n".join(rows) + "\n"


def _option_row(parameter: Any) -> str:
    """Return a row of the options' table: names and value, help, default."""
    words = []
    if parameter.opts[0].startswith("-"):
        words = [f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts)]
    if not getattr(parameter, "is_flag", False):
        words.append(f"`{parameter.metavar or 'N'}`")
    cells = [" ".join(words), parameter.help or "", _default(parameter.default)]
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def _default(value: Any) -> str:
    if value is None or value is False or value == []:
        return ""
    if isinstance(value, list):
        return f"`{','.join(value)}`"
    return f"`{value}`"


def on_site(page: Path) -> Path:
    """Return where a page is in the folder that the site is built of."""
    return page.relative_to(ROOT).with_suffix(".md")


def run_notebook(notebook: Any) -> None:
    """Run the cells of a notebook, except the one that installs clipkit."""
    from nbclient import NotebookClient

    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, resources={"metadata": {"path": folder}})
        with client.setup_kernel():
            for index, cell in enumerate(notebook.cells):
                if cell.cell_type == "code" and cell.id != "install":
                    client.execute_cell(cell, index)


def read_notebook(page: Path) -> str:
    """Return the Markdown of a notebook: its texts, its code and what the code shows."""
    import nbformat

    notebook = nbformat.read(page, as_version=4)
    run_notebook(notebook)
    blocks = []
    for cell in notebook.cells:
        is_code = cell.cell_type == "code"
        blocks.append(f"```python\n{cell.source}\n```" if is_code else cell.source)
        for output in cell.get("outputs", []):
            if output.output_type == "execute_result":  # the others are progress
                blocks.append(markdown_of(output))
    return "\n\n".join(blocks) + "\n"


def markdown_of(output: Any) -> str:
    """Return the Markdown of an output of a cell: its table, its picture or its text."""
    forms = output.data
    if "text/html" in forms:
        return str(forms["text/html"])
    if "image/png" in forms:
        shown = output.metadata["image/png"]
        attributes = f'width="{shown["width"]}" alt="{html.escape(shown["alt"])}"'
        return f'<p><img {attributes} src="data:image/png;base64,{forms["image/png"].strip()}"></p>'
    return f"```text\n{forms['text/plain']}\n```"


def page_text(page: Path) -> str:
    """Return the Markdown of a page, with its options, without links to files that are no pages."""

    def keep_link(match: re.Match[str]) -> str:
        text, target = match["text"], match["target"]
        if target is None:
            return match[0]
        path = (page.parent / target).resolve()
        if path in PAGES:
            return match[0].replace(".ipynb)", ".md)")
        return match[0] if target.startswith("http") or not path.exists() else text

    is_notebook = page.suffix == ".ipynb"
    text = read_notebook(page) if is_notebook else page.read_text(encoding="utf-8")
    text = CODE_OR_LINK.sub(keep_link, text)
    text = OPTIONS.sub(lambda match: options(match[1]), text)
    text = REPORT_PLACE.sub(REPORT_LINK, text)
    return COMMENT.sub(r"\1\n\n", text)  # Python-Markdown would take a table below for HTML


def copy_pages(folder: Path) -> None:
    """Write all pages and their pictures below a folder."""
    for page in PAGES:
        copy = folder / on_site(page)
        copy.parent.mkdir(parents=True, exist_ok=True)
        text = page_text(page)
        if page in UNSEARCHED:
            text = f"{NO_SEARCH}{text}"
        copy.write_text(text, encoding="utf-8")
    shutil.copytree(ROOT / "docs" / "images", folder / "docs" / "images")


def make_report(page: Path) -> None:
    """Run the commands of `EXAMPLE`, and write their report."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        examples.run(f"set -e; {EXAMPLE}", folder)
        shutil.copy(folder / "report.html", page)


def make_picture(picture: Path) -> None:
    """Write the top of the example's report as a PNG of few colours."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or "chromium"
    with tempfile.TemporaryDirectory() as name:
        page, shot = Path(name, "report.html"), Path(name, "report.png")
        make_report(page)
        size = ",".join(map(str, PICTURE_SIZE))
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={size}"]
        subprocess.run([chromium, *options, f"--screenshot={shot}", page.as_uri()], check=True)
        with Image.open(shot) as image:
            image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(
                picture, optimize=True
            )


def build(folder: Path) -> Path:
    """Build the site in a folder, which is deleted first, and return its first page.

    Raises
    ------
    subprocess.CalledProcessError
        If a link is broken.
    """
    shutil.rmtree(folder, ignore_errors=True)
    pages = folder / "pages"
    copy_pages(pages)
    for name in ("site.css", "site.js"):
        shutil.copy(ROOT / "docs" / name, pages / "docs")
    make_report(pages / REPORT)
    shutil.copy(ROOT / "docs" / "zensical.toml", folder)
    subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=folder, check=True)
    for page in (folder / "html").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace(CODE, FOCUSABLE), encoding="utf-8")
    return folder / "html" / "index.html"


if __name__ == "__main__":
    if "--picture" in sys.argv:
        make_picture(ROOT / "docs" / "images" / "report.png")
    else:
        print(build(ROOT / "build" / "site"))
