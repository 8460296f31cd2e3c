"""Build README.md, docs/ and the other pages as a site in build/site/html, by zensical.

The pages are copied to where they are in the repository, so that their links stay as they are. A
link to a file that is not a page is replaced by its text. A broken link is an error. The site has a
report that `EXAMPLE` makes of the bundled data set and model.

    python docs/website.py            # build the site
    python docs/website.py --picture  # make docs/images/report.png of that report, with Chromium
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import examples
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "CHANGELOG")),
    ROOT / "prompts" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
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
PICTURE_SIZE = 1100, 975  # pixels; the summary
CODE = "<pre><span></span><code>"
FOCUSABLE = '<pre><span></span><code tabindex="0" role="group" aria-label="Code">'
COMMENT = re.compile(r"^(<!--.*-->)\n", re.MULTILINE)


def page_text(page: Path) -> str:
    """Return the Markdown of a page, without links to files that are no pages."""

    def keep_link(match: re.Match[str]) -> str:
        text, target = match["text"], match["target"]
        if target is None:
            return match[0]
        path = (page.parent / target).resolve()
        is_kept = target.startswith("http") or path in PAGES or not path.exists()
        return match[0] if is_kept else text

    text = CODE_OR_LINK.sub(keep_link, page.read_text(encoding="utf-8"))
    return COMMENT.sub(r"\1\n\n", text)  # Python-Markdown would take a table below for HTML


def copy_pages(folder: Path) -> None:
    """Write all pages and their pictures below a folder."""
    for page in PAGES:
        copy = folder / page.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(page_text(page), encoding="utf-8")
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
