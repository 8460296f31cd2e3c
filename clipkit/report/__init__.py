"""Report results as one page, Markdown or HTML. Every number of a page comes from the files."""

from __future__ import annotations

from clipkit.base.errors import ClipkitError
from clipkit.features.arguments import FilePath, Several
from clipkit.features.model import FeatureFile
from clipkit.report.blocks import Page
from clipkit.report.html import as_cell, as_html
from clipkit.report.markdown import as_markdown
from clipkit.report.questions import of_files, of_result

__all__ = ["Page", "as_cell", "as_html", "as_markdown", "of_files", "of_folder", "of_result"]


def of_folder(folder: FilePath, untrained: Several[FilePath] = ()) -> Page:
    """Report the files in a folder, beside those in folders of untrained controls; see `of_files`.

    Raises
    ------
    ClipkitError
        If no file can be reported, or a control is a trained model's.
    """
    return of_files([folder], untrained)


def view(result: FeatureFile) -> str | None:
    """Return the tables of a result, and what they say, for a notebook.

    A result that a report would leave out has none.
    """
    try:
        return as_cell(of_result(result))
    except ClipkitError:
        return None
