"""Numbers and pictures of thesis.md: those of results folders that the Makefile's chapters have made.

Between `<!-- results FOLDER: HEADING -->` and `<!-- end -->` stands what FOLDER/report.md says under the heading that
begins so, without its pictures and without columns that are empty. A picture of the page, images/thesis/FOLDER/NAME, is
that of FOLDER/NAME.

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
    """What a report says under a heading, up to the next one."""
    _, text = re.split(rf"^#+ {re.escape(heading)}.*\n", report, maxsplit=1, flags=re.MULTILINE)
    parts = re.split(r"^#+ ", text, maxsplit=1, flags=re.MULTILINE)[0].strip().split("\n\n")
    return "\n\n".join(_narrow(part) for part in parts if not part.startswith("!["))


def _narrow(part: str) -> str:
    """A table without the columns in which no row has anything; anything else as it is."""
    if not part.startswith("|"):
        return part
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in part.splitlines()]
    kept = [i for i in range(len(lines[0])) if any(line[i].strip() for line in lines[2:])]
    return "\n".join(f"|{'|'.join(line[i] for i in kept)}|" for line in lines)


def fill(page: str, results: Path) -> str:
    """The page with what the results folders say now."""

    def again(match: re.Match[str]) -> str:
        report = (results / match[2] / "report.md").read_text()
        return f"{match[1]}\n{section(report, match[3])}\n\n{match[4]}"

    return BLOCK.sub(again, page)


def main() -> None:
    """Write the page again from the results below a folder, and copy the pictures that it shows."""
    results = Path(sys.argv[1])
    PAGE.write_text(fill(PAGE.read_text(), results))
    shutil.rmtree(PAGE.with_name("images") / "thesis", ignore_errors=True)
    for name in PICTURE.findall(PAGE.read_text()):
        target = PAGE.with_name("images") / "thesis" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(results / name, target)


if __name__ == "__main__":
    main()
