"""Render a report as one HTML file that needs no other file and no server."""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.common.utils import escapeHtml
from markdown_it.token import Token
from markupsafe import Markup
from PIL import Image

from clipkit.analysis import results
from clipkit.base import console
from clipkit.base.errors import ClipkitError
from clipkit.base.markdown import escape
from clipkit.base.names import distinct_names
from clipkit.features.model import FeatureFile
from clipkit.plots import style
from clipkit.plots.attributes import draw_attributes
from clipkit.plots.confusion import confusion_boxes
from clipkit.plots.style import Drawn
from clipkit.report.blocks import (
    Bar,
    Block,
    Cell,
    Drawing,
    Heading,
    Number,
    Page,
    Picture,
    Question,
    Table,
)

if TYPE_CHECKING:
    from clipkit.report.album import Album

MOST_FACTS = 3  # of a question that stand open
SVG_DPI = 96  # CSS pixels of an inch
UNREADABLE = (  # what Pillow raises
    OSError,
    ValueError,
    SyntaxError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
BAR_WIDTH, BAR_HEIGHT = 96, 14
PAD = 3  # pixels at the ends of a bar, for its marks
# Words of Hebrew, Arabic and other scripts from right to left
RIGHT_TO_LEFT = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff"
RIGHT_TO_LEFT_WORDS = re.compile(f"[{RIGHT_TO_LEFT}]+(?:[ -]+[{RIGHT_TO_LEFT}]+)*")

_markdown = MarkdownIt("commonmark", {"html": False}).disable(
    ["autolink", "code", "entity", "fence", "heading", "html_block", "html_inline", "image", "link"]
)
_templates = Environment(
    loader=PackageLoader(__package__, "page"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)


def as_html(page: Page, album: Album | None = None) -> str:
    """Render a report as HTML, with the images of an album after the summary."""
    pictures = _Pictures()
    questions = [_question(page, question, album, pictures) for question in page.questions]
    nodes = [*_nodes(page.blocks, pictures, "b")]
    style.warn_of_boxes(pictures.missing)
    scripts = [_source("page.js")]
    if album:
        scripts.append(_source("album.js"))
    return _templates.get_template("page.html").render(
        page=page,
        title=_inline(page.title),
        questions=questions,
        nodes=nodes,
        left_out=[*page.left_out, *pictures.left_out],
        album=album,
        style=_source("page.css"),
        scripts=scripts,
        script_hashes=[_hash(script) for script in scripts],
        marks=_legend,
    )


def _question(
    page: Page, question: Question, album: Album | None, pictures: _Pictures
) -> dict[str, Any]:
    """Return a question for the template: what stands open, and what is folded."""
    key = f"q-{question.section}"
    drawing = None
    if question.drawing is not None:
        drawing = _draw(page, question.drawing, album, pictures)
    table = None
    if question.table is not None:
        label = _inline(question.text).striptags()
        table = {"kind": "table", "key": f"{key}-t", "label": label, **_table(question.table)}
    blocks: list[Block] = []
    for block in question.folded:
        is_same = isinstance(block, Picture) and _shows_drawing(block.path, question.drawing)
        if drawing is None or not is_same:
            blocks.append(block)
    folded = [*_nodes(blocks, pictures, key, page, album)]
    while folded and folded[-1]["kind"] == "heading":
        folded.pop()  # none of the pictures below it is shown
    return {
        "key": key,
        "text": question.text,
        "facts": question.facts[:MOST_FACTS],
        "more_facts": question.facts[MOST_FACTS:],
        "drawing": drawing,
        "table": table,
        "folded": folded,
        "label": _count_folded(folded),
    }


def _count_folded(nodes: Sequence[Mapping[str, Any]]) -> str:
    """Say what is folded: how many tables and pictures."""
    kinds = Counter(node["kind"] for node in nodes)
    parts = []
    for kind in ("table", "picture"):
        if kinds[kind]:
            parts.append(console.count(kinds[kind], kind))
    return f"More: {' and '.join(parts)}" if parts else "More"


def _draw(
    page: Page, drawing: Drawing, album: Album | None, pictures: _Pictures
) -> dict[str, Any] | None:
    """Draw a picture; the confusion of the album's main result has links to the album."""
    linked = None
    if album and drawing.is_linked and page.main_result(album.dataset)[0] is drawing.inputs[0]:
        linked = album
    return pictures.draw(drawing.draw, *drawing.inputs, album=linked)


def _shows_drawing(picture: Path, drawing: Drawing | None) -> bool:
    """Whether a picture of a folder is named after the result that a question draws."""
    for result in drawing.inputs if drawing else ():
        if isinstance(result, FeatureFile) and drawing and drawing.draw is draw_attributes:
            return _is_named_after(picture, Path(result.display_name))
    return False


def as_cell(page: Page) -> str:
    """Render the tables of a report, and what they say, for the output of a notebook's cell.

    It has neither scripts nor headings, and takes its colour from the notebook.
    """
    nodes = list(_nodes(page.blocks, _Pictures(), "b"))
    return _templates.get_template("cell.html").render(page=page, nodes=nodes)


def _source(name: str) -> Markup:
    """Return a style sheet or a script of this package."""
    assert _templates.loader is not None
    return Markup(_templates.loader.get_source(_templates, name)[0])


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _text(_: object, tokens: Sequence[Token], number: int, *__: object) -> str:
    """Render a text. A name from right to left must not reorder the sentence around it."""
    text = escapeHtml(tokens[number].content)
    return RIGHT_TO_LEFT_WORDS.sub(r"<bdi>\g<0></bdi>", text)


_markdown.add_render_rule("text", _text)


def _inline(markdown: str) -> Markup:
    return Markup(_markdown.renderInline(markdown))


def _nodes(
    blocks: Sequence[Block],
    pictures: _Pictures,
    key: str,
    page: Page | None = None,
    album: Album | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield each block for the template."""
    heading = ""
    labels: Counter[str] = Counter()
    for number, block in enumerate(blocks):
        if isinstance(block, Heading):
            heading = block.text
        if isinstance(block, Drawing):
            assert page is not None  # only questions have drawings
            node = _draw(page, block, album, pictures)
        else:
            node = _node(block, pictures, f"{key}{number}", heading)
        if node and node["kind"] == "table":  # its region needs a name of its own
            labels[node["label"]] += 1
            if labels[node["label"]] > 1:
                node["label"] += f", table {labels[node['label']]}"
        if node:
            yield node


def _is_named_after(picture: Path, result: Path) -> bool:
    """Whether a picture is named after a result: a.b.png or b.png after a.b.h5 in its folder."""
    names = (result.stem, result.stem.rpartition(".")[2])
    return picture.parent == result.parent and picture.stem in names


def _node(block: Any, pictures: _Pictures, key: str, heading: str = "") -> Any:
    """Return a block for the template, with its kind, or None if it cannot be shown."""
    if isinstance(block, Heading):
        tag = f"h{block.level}"
        return {"kind": "heading", "tag": tag, "key": key, "html": _inline(block.text)}
    if isinstance(block, Picture):
        return pictures.node(block)
    if isinstance(block, str):
        return {"kind": "prose", "html": Markup(_markdown.render(block))}
    return {"kind": "table", "key": key, "label": _inline(heading).striptags(), **_table(block)}


def _table(table: Table) -> dict[str, Any]:
    """Return the columns and rows of a table."""
    table = table.arranged()
    sources = table.sources or [""] * len(table.rows)
    bars = [cell.bar for row in table.rows for cell in row if isinstance(cell, Number)]
    return {
        "header": table.header,
        "rows": list(zip(sources, table.rows, strict=True)),
        "text_columns": table.text_columns,
        "shared": table.shared,
        "sources": [source for source in dict.fromkeys(sources) if source],
        "class": _class(table),
        "names_files": _names_files(table),
        "legend": _legend(bars),
        "has_bars_below": _count_columns_with_bars(table.rows) > 1,
    }


def _names_files(table: Table) -> bool:
    """Whether rows have their files below their names: one of its own for each, not yet named."""
    is_own = len(set(table.sources)) == len(table.rows) > 1
    return is_own and "file" not in table.header[0]


def _count_columns_with_bars(rows: Sequence[Sequence[Cell]]) -> int:
    count = 0
    for column in zip(*rows, strict=True):
        if any(isinstance(cell, Number) for cell in column):
            count += 1
    return count


def _class(table: Table) -> str:
    """Return "facts" for a table of names and values, "sortable" for several rows, else ""."""
    if not table.has_header:
        return "facts"
    if len(table.rows) > 1:
        return "sortable"
    return ""


def _legend(bars: Sequence[Bar]) -> list[tuple[str, str]]:
    """Return the marks that the bars have, each with its meaning."""
    runs, intervals, references, controls = [], [], [], []
    for bar in bars:
        if bar.runs:
            runs.append(("run", "one run"))
        if math.isfinite(bar.low):
            intervals.append(("interval", "95 % interval, or range"))
        if math.isfinite(bar.reference):
            references.append(("reference", bar.reference_name))
        if math.isfinite(bar.control):
            controls.append(("control", "untrained control"))
    return list(dict.fromkeys(intervals + runs + references + controls))


def _bar(bar: Bar, width: int = BAR_WIDTH) -> Markup:
    """Draw a bar as inline SVG; screen readers read the number beside it."""
    low, high = bar.span

    def x(value: float) -> float:
        share = (min(max(value, low), high) - low) / ((high - low) or 1)
        return round(PAD + share * (width - 2 * PAD), 1)

    middle = BAR_HEIGHT / 2
    parts = [f'<line class="track" x1="{PAD}" x2="{width - PAD}" y1="{middle}" y2="{middle}"/>']
    if bar.runs:
        strokes = "".join(f"M{x(run)} 2v10" for run in bar.runs)
        parts.append(f'<path class="run" d="{strokes}"/>')
    else:
        start, end = sorted((x(0), x(bar.value)))
        parts.append(
            f'<rect class="value" x="{start}" y="4" width="{end - start:.1f}" height="6"/>'
        )
    if math.isfinite(bar.low) and math.isfinite(bar.high):
        ends = f'x1="{x(bar.low)}" x2="{x(bar.high)}"'
        parts.append(f'<line class="interval" {ends} y1="{middle}" y2="{middle}"/>')
    if math.isfinite(bar.reference):
        at = x(bar.reference)
        parts.append(f'<line class="reference" x1="{at}" x2="{at}" y1="0" y2="{BAR_HEIGHT}"/>')
    if math.isfinite(bar.control):
        at = x(bar.control)
        parts.append(f'<path class="control" d="M{at} 3l3.5 4-3.5 4-3.5-4z"/>')
    size = f'width="{width}" height="{BAR_HEIGHT}" viewBox="0 0 {width} {BAR_HEIGHT}"'
    return Markup(f'<svg class="bar" aria-hidden="true" {size}>{"".join(parts)}</svg>')


_templates.filters["escaped"] = console.escaped
_templates.globals.update(inline=_inline, bar=_bar)


class _Pictures:
    """Pictures as data URIs.

    `left_out` says why a picture cannot be read. `missing` has the
    characters of drawings that no font has.
    """

    def __init__(self) -> None:
        self.left_out: list[str] = []
        self.missing: list[str] = []

    def node(self, picture: Picture) -> dict[str, Any] | None:
        """Return a picture for the template, or None if it cannot be read."""
        try:
            uri, size, texts = _embed(picture.path)
            caption = escape(texts.get("Title", "")) or picture.caption
            is_chart = texts.get("Comment") == style.CHART
            return _picture_node(uri, size, caption, caption, is_chart)
        except UNREADABLE as error:
            reason = f"{picture.path.name}: expected a PNG picture, got one that cannot be read"
            console.warn(f"left out {reason} ({error})")
            self.left_out.append(escape(reason))
            return None

    def draw(
        self, draw: Callable[..., Drawn], *inputs: Any, album: Album | None = None
    ) -> dict[str, Any] | None:
        """Draw results as SVG; return None if another program named their columns."""
        try:
            figure, source = draw(*inputs)
            style.finish(figure, source)
        except ClipkitError:
            return None
        figure.set_layout_engine("none")  # it is laid out: rendering need not do that again
        content, missing = style.render(figure, "svg")
        self.missing += missing
        width, height = (round(SVG_DPI * inches) for inches in figure.get_size_inches())
        uri = _data_uri("image/svg+xml", content)
        links = _links(figure, inputs[0], album) if album else []
        caption = escape(style.finding_of(figure))
        alternative = f"{caption}. {escape(source)}"
        return _picture_node(uri, (width, height), caption, alternative, True, links)


def _picture_node(
    uri: str,
    size: tuple[int, int],
    caption: str,
    alternative: str,
    is_chart: bool,
    links: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    texts = {"caption": _inline(caption), "alternative": _inline(alternative)}
    look = {"size": size, "is_chart": is_chart, "links": links}
    return {"kind": "picture", "uri": uri, **texts, **look}


def _links(figure: Any, result: FeatureFile, album: Album) -> list[dict[str, Any]]:
    """Link the cells of a drawn confusion to their first images in an album of the same result."""
    matrix = results.count(results.predictions(result))
    names = distinct_names(list(map(console.escaped, matrix.class_names)))
    pairs = [(image.true, image.predicted) for image in album.images]
    in_album = Counter(pairs)
    links = []
    for i, j, box in confusion_boxes(figure, matrix.counts):
        pair = names[i], names[j]
        if pair not in in_album:
            continue
        total = int(matrix.counts[i, j])
        images = console.count(total, "image")
        if in_album[pair] < total:
            images = f"{in_album[pair]} of {images}"
        title = f"{pair[0]} predicted as {pair[1]}: {images}"
        links.append({"image": pairs.index(pair) + 1, "total": total, "title": title, "box": box})
    return links


def _data_uri(mime_type: str, content: bytes) -> str:
    return f"data:{mime_type};base64,{base64.b64encode(content).decode()}"


def _embed(path: Path) -> tuple[str, tuple[int, int], dict[str, str]]:
    """Return a PNG as a data URI with its width and height, and the texts that it holds.

    It is compressed again as WebP, without loss, if that is smaller. For matplotlib's pictures,
    WebP has a third of the bytes of PNG and half the bytes of SVG.
    """
    if not path.is_file():  # a FIFO would never end
        raise OSError("it is no file")
    content = {"image/png": path.read_bytes()}
    with (
        warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning),
        Image.open(io.BytesIO(content["image/png"]), formats=["PNG"]) as image,
    ):
        width, height = image.size
        if width * height > style.MAX_ASKED_PIXELS:
            raise ValueError(f"{width} x {height} pixels")
        image.load()
        texts = {str(name): str(text) for name, text in image.info.items()}
        webp = io.BytesIO()
        if max(width, height) < 1 << 14:  # what the format can hold
            image.save(webp, "WEBP", lossless=True)
            content["image/webp"] = webp.getvalue()
    mime_type = min(content, key=lambda name: len(content[name]))
    return _data_uri(mime_type, content[mime_type]), (width, height), texts
