"""Update the numbers and pictures of thesis.md from results folders of the Makefile's chapters.

Between `<!-- results FOLDER: HEADING -->` and `<!-- end -->`, the page shows the section of
FOLDER/report.md whose heading begins with HEADING, without pictures and empty columns. A picture
images/thesis/FOLDER/NAME of the page is a copy of FOLDER/NAME.

    python docs/thesis.py RESULTS    # `make thesis-page` makes the results first
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

PAGE = Path(__file__).with_name("thesis.md")
BLOCK = re.compile(r"(<!-- results (\S+): (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
PICTURE = re.compile(r"\]\(images/thesis/([\w./-]+)\)")


def section(report: str, heading: str) -> str:
    """Return what a report has between a heading and the next one, without its pictures."""
    start = re.search(rf"^#+ {re.escape(heading)}.*\n", report, flags=re.MULTILINE)
    if start is None:
        sys.exit(f"the report has no heading that begins with {heading!r}")
    text = re.split(r"^#+ ", report[start.end() :], maxsplit=1, flags=re.MULTILINE)[0]
    blocks = [block for block in text.strip().split("\n\n") if not block.startswith("![")]
    return "\n\n".join(_drop_empty_columns(block) for block in blocks)


def _drop_empty_columns(block: str) -> str:
    """Return a table without the columns that are empty in every row; other blocks as they are."""
    if not block.startswith("|"):
        return block
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
    columns = zip(*lines, strict=True)
    used = [column for column in columns if any(cell.strip() for cell in column[2:])]
    return "\n".join(f"|{'|'.join(line)}|" for line in zip(*used, strict=True))


def fill(page: str, results: Path) -> str:
    """Return the page with the sections of the current reports."""

    def replace_block(match: re.Match[str]) -> str:
        start, folder, heading, end = match.groups()
        report = (results / folder / "report.md").read_text()
        return f"{start}\n{section(report, heading)}\n\n{end}"

    return BLOCK.sub(replace_block, page)


def main() -> None:
    """Write the page again from a folder of results, and copy the pictures that it shows."""
    results = Path(sys.argv[1])
    page = fill(PAGE.read_text(), results)
    PAGE.write_text(page)
    pictures = PAGE.with_name("images") / "thesis"
    shutil.rmtree(pictures, ignore_errors=True)
    for name in PICTURE.findall(page):
        (pictures / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(results / name, pictures / name)


if __name__ == "__main__":
    main()
