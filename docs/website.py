"""Build README.md, docs/ and the other pages as a site in build/site/html, by zensical.

The pages are copied to where they are in the repository, so that their links stay as they are. A
link to a file that is not a page is replaced by its text. A broken link is an error.

    python docs/website.py
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

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


def build(folder: Path) -> Path:
    """Build the site in a folder, which is deleted first, and return its first page.

    Raises
    ------
    subprocess.CalledProcessError
        If a link is broken.
    """
    shutil.rmtree(folder, ignore_errors=True)
    copy_pages(folder / "pages")
    shutil.copy(ROOT / "docs" / "zensical.toml", folder)
    subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=folder, check=True)
    return folder / "html" / "index.html"


if __name__ == "__main__":
    print(build(ROOT / "build" / "site"))
