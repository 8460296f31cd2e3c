"""One thing has one word: what is not decided, and words that others replaced."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "clipkit").rglob("*.py"))
TEMPLATES = sorted((ROOT / "clipkit" / "report" / "page").iterdir())
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Other words for "not decided" and "decided"
FOR_DECIDED = re.compile(
    r"\b((is|are|was|were|not) shown to(?! people)|no (sign|evidence) of|(in)?significant(ly)?|"
    r"undecided|inconclusive|indistinguishable|do(es)? not differ|differ measurably)\b",
    re.IGNORECASE,
)
# Words that vocabulary has replaced, and those in their place
REPLACED = {
    r"said of nothing": "wrong, or the false positive rate",
    r"siblings?": "dependent rows, or clusters",
    r"companions?": "confounder, or associated attributes",
    r"null worlds?": "permuted labels, or nothing to find",
    r"one's own code": "user code",
    r"goes with (this one|one value)": "is associated with, or occurs with",
}


def texts_of(path: Path) -> list[str]:
    """Return what users may read of a file: of a module, its literals."""
    text = path.read_text("utf-8")
    if path.suffix != ".py":
        return [text]
    nodes = ast.walk(ast.parse(text))
    literals = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return [value for value in literals if isinstance(value, str)]


@pytest.mark.parametrize("path", [*MODULES, *TEMPLATES, *PAGES], ids=lambda path: path.name)
def test_not_decided_has_no_other_word(path):
    assert [found[0] for text in texts_of(path) for found in FOR_DECIDED.finditer(text)] == []


@pytest.mark.parametrize("word", REPLACED)
def test_a_replaced_word_is_not_used(word):
    pattern = re.compile(rf"\b{word}\b", re.IGNORECASE)
    using = [
        path.name
        for path in (*MODULES, *PAGES)
        for text in texts_of(path)
        if pattern.search(text.replace("test_siblings", ""))
    ]
    assert using == [], REPLACED[word]


@pytest.mark.parametrize(
    "text", ["No attribute is shown to explain the errors", "A and B do not differ", "Undecided"]
)
def test_other_words_for_not_decided_are_found(text):
    assert FOR_DECIDED.search(text)
