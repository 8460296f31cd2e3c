"""Pages of `clipkit report` in a real browser: Debian's Chromium, without a window."""

import base64
import io
import re

import numpy as np
import pytest
from factories import result_file
from factories.results import LABELS, RUN, write_baseline, write_results
from matplotlib.figure import Figure
from PIL import Image
from shell import ok, partly

from clipkit import plots
from clipkit.analysis import find
from clipkit.features import FeatureFile, read, write
from clipkit.plots.style import PALETTE
from clipkit.report import html
from clipkit.report.blocks import Bar, Number, Page, Picture, Table

pytestmark = pytest.mark.long
NAMES = ('<script>alert("1")</script>', "a'b\"c&amp;<b>", "שלום עולם", "猫と犬", "*e* _f_ [g](h:i)")
A4_PIXELS = round((210 - 2 * 12) / 25.4 * 96)  # between the margins


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of a folder with hostile names, two classifiers, a control and two pictures."""
    folder = write_results(tmp_path_factory.mktemp("page") / "results", NAMES)
    control = write_results(folder.parent / "control", NAMES, model={"untrained": 7})
    of_svm = read(folder / "img.svm.h5")
    of_svm.splits["test"].predicted[:, [0, 151]] = 1  # so that the first class is the lowest
    write(folder / "img.svm.h5", of_svm, force=True)
    write_logreg(folder)
    write_attributes(folder)
    write_baseline(control, {"acc1": 0.75})
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8).repeat(9, axis=1)
    for name in ("img.svm.confusion.png", "attributes.png"):
        Image.fromarray(pixels).save(folder / name, compress_level=0)
    (folder / "img.svm.classes.png").write_bytes(b"no picture")
    page = folder.parent / "report.html"
    ok("report", folder, "--control", control, "-o", page)
    return page


@pytest.fixture(scope="module")
def collection(report):
    """The page of the same results without the folder's names."""
    folder, page = report.parent / "results", report.parent / "files.html"
    files = [folder / "img.h5", folder / "img.svm.h5", folder / "img.logreg.h5", folder / "no.h5"]
    partly("report", *files, "-o", page)
    return page


def write_logreg(folder):
    """Write img.logreg.h5: 110 of 200 test rows are right."""
    images, svm = read(folder / "img.h5"), read(folder / "img.svm.h5")
    history = [*images.history, svm.history[-1] | {"classifier": "logreg"}]
    predicted = np.where(np.arange(200) < 110, LABELS, (LABELS + 2) % 5)
    rows = [RUN | {"classifier": "logreg", "acc1": 0.55}]
    result = result_file(rows, LABELS, [predicted], history, images.class_names)
    write(folder / "img.logreg.h5", result)


def write_attributes(folder):
    """Write img.attributes.h5: the recall of one attribute."""
    images = read(folder / "img.h5")
    made = {"command": "attributes", "inputs": {"images": images.digest}}
    result = FeatureFile("result", [*images.history, made])
    row = dict.fromkeys(find("attributes").needs.split(), 0.5)
    result.set_rows([row | {"attribute": "colour", "values": 2, "rows": 200}])
    write(folder / "img.attributes.h5", result)


def column(page, number, table=0):
    rows = page.locator("table.sortable").nth(table).locator("tbody tr")
    return [row.locator(".text").nth(number).inner_text() for row in rows.all()]


def axe_faults(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    violations = axe.run(page).response["violations"]
    return [
        (fault["id"], fault["nodes"][0]["html"])
        for fault in violations
        if fault["impact"] in ("serious", "critical") or fault["id"] == "landmark-unique"
    ]


def unfold(page):
    page.evaluate("document.querySelectorAll('main details').forEach(one => { one.open = true; })")


def test_a_table_is_sorted_by_a_click_and_by_a_key(report, open_page):
    page = open_page(report)
    unfold(page)
    header = page.locator("table.sortable th", has_text="accuracy").first
    accuracy = header.evaluate("header => header.cellIndex")
    original = column(page, accuracy)
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    assert column(page, accuracy) == sorted(original, key=float_of, reverse=True)
    page.keyboard.press("Enter")
    assert header.get_attribute("aria-sort") == "ascending"
    assert column(page, accuracy) == sorted(original, key=float_of)
    page.keyboard.press("Space")
    assert header.get_attribute("aria-sort") == "none"
    assert column(page, accuracy) == original


def float_of(cell):
    return float(cell.split()[0])


@pytest.mark.exhaustive
def test_a_table_and_its_commands_are_copied(report, open_page):
    page = open_page(report, permissions=["clipboard-read", "clipboard-write"])
    unfold(page)
    page.locator("figure", has=page.locator("table.sortable")).filter(
        has_text="img.logreg"
    ).last.get_by_text("Copy as").click()
    page.get_by_text("Copied").first.wait_for()
    header, first, *_ = page.evaluate("navigator.clipboard.readText()").splitlines()
    columns = ["file", "classifier", "accuracy (%)", "untrained control (%)"]
    assert header.split("\t") == columns
    assert first.split("\t")[1:] == ["logreg", "55.00 (48.08–61.74)", ""]
    shared = "In all rows: model clip-vit-base-patch32, result of probe, C 1"
    assert any(shared in text for text in page.locator("figcaption").all_inner_texts())

    page.locator("tbody a", has_text="img.svm.h5").first.click()  # unfolds how it was made
    commands = page.locator(".origin:target")
    assert "sha256:12" in commands.inner_text()
    commands.get_by_role("button").click()
    commands.get_by_text("Copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.splitlines()[-1].startswith("clipkit probe img.h5 --fit-split train ")


def write_page(path, *blocks, **parts):
    path.write_text(html.as_html(Page("Title", blocks, **parts)), encoding="utf-8")
    return path


@pytest.mark.exhaustive
def test_numbers_in_texts_are_sorted_as_numbers(tmp_path, open_page):
    names = ["τ 0.5", "τ 0.05", "layer l10", "τ 0.005", "layer l9", "τ 0.02", "1,000", "200", "τ 1"]
    table = Table(["name", "n"], [[name, "1"] for name in names])
    page = open_page(write_page(tmp_path / "page.html", table))
    page.locator("table.sortable th").first.get_by_role("button").click()
    assert column(page, 0) == [
        *("200", "1,000", "layer l9", "layer l10"),
        *("τ 0.005", "τ 0.02", "τ 0.05", "τ 0.5", "τ 1"),
    ]


@pytest.mark.exhaustive
def test_a_failure_is_not_called_a_copy(report, open_page):
    page = open_page(report)
    button = page.locator(".copy-table").first
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(); }")
    page.evaluate("() => { document.execCommand = () => false; }")
    button.click()
    page.locator(".copy-table", has_text="Not copied").wait_for()
    assert page.locator(".status").inner_text().startswith("Not copied")


@pytest.mark.exhaustive
def test_without_scripts_the_contents_scroll_away_on_a_telephone(report, open_page):
    page = open_page(report, 390, java_script_enabled=False)
    assert page.locator("nav").bounding_box()["height"] > 100
    assert not page.locator(".copy-table").first.is_visible()
    page.locator("h2").last.scroll_into_view_if_needed()
    box = page.locator("nav").bounding_box()
    assert box["y"] + box["height"] < 0


@pytest.mark.exhaustive
def test_a_page_sends_nothing_and_has_no_other_base(report):
    policy = re.search('Content-Security-Policy" content="([^"]*)"', report.read_text("utf-8"))[1]
    assert policy.startswith("default-src 'none';")
    assert policy.endswith("; base-uri 'none'; form-action 'none'")


@pytest.mark.exhaustive
def test_keys_reach_everything_and_a_picture_is_enlarged_and_closed(report, open_page):
    page = open_page(report)
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.className || document.activeElement.localName")
        )
        if reached[-1] == "zoom":
            break
    assert reached[:2] == ["skip", "summary"]
    assert reached[-1] == "zoom"
    page.keyboard.press("Enter")
    dialog = page.locator("dialog")
    assert dialog.is_visible()
    told = dialog.locator("img").get_attribute("alt")
    assert told.startswith("Right: probe of images 75.0 %. ")
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert page.evaluate("document.activeElement.className") == "zoom"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(report, collection, open_page, scheme):
    for path, width in ((report, 1600), (collection, 390)):
        page = open_page(path, width, color_scheme=scheme)
        page.evaluate("for (const fold of document.querySelectorAll('details')) fold.open = true")
        assert axe_faults(page) == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", background)))
    assert (brightness < 200) == (scheme == "dark")


def test_charts_are_dark_on_a_dark_page_and_photographs_and_prints_stay_as_they_are(
    tmp_path, open_page
):
    inks = [*PALETTE, "white"]
    fig = Figure((4, 0.5))
    ax = fig.add_axes((0, 0, 1, 1), xlim=(-0.5, len(inks) - 0.5))
    ax.bar(range(len(inks)), 1, width=1, color=inks)
    ax.set_axis_off()
    plots.save(fig, tmp_path / "chart.png")
    plots.save(plots.contact_sheet(np.full((8, 9, 9, 3), 200)), tmp_path / "photos.png")
    pictures = [Picture(tmp_path / name, name) for name in ("chart.png", "photos.png")]
    page = open_page(write_page(tmp_path / "page.html", *pictures), color_scheme="dark")
    chart, photos = page.locator("figure.picture img").all()
    *colours, ground = shown_luminances(chart, len(inks))
    assert ground < 0.01
    assert min(colours) + 0.05 > 3 * (ground + 0.05)  # WCAG's contrast of graphics
    assert shown_luminances(photos, 1)[0] > 0.9
    page.emulate_media(media="print")
    assert shown_luminances(chart, len(inks))[-1] == pytest.approx(1, abs=0.01)


def shown_luminances(picture, count):
    """Return the relative luminance (WCAG) at places beside each other near a picture's foot."""
    with Image.open(io.BytesIO(picture.screenshot())) as image:
        pixels = np.asarray(image.convert("RGB"))[-9] / 255
    places = ((np.arange(count) + 0.5) * len(pixels) / count).astype(int)
    linear = np.where(pixels <= 0.04045, pixels / 12.92, ((pixels + 0.055) / 1.055) ** 2.4)
    return (linear[places] @ [0.2126, 0.7152, 0.0722]).tolist()


def test_a_report_warns_once_of_characters_that_no_font_has(tmp_path):
    folder = write_results(tmp_path / "results", ("cat", "dog", "owl", "\U00012000", "猫"))
    warnings = ok("report", folder / "img.svm.h5", "-o", tmp_path / "page.html").stderr
    (warning,) = [line for line in warnings.splitlines() if "boxes" in line]
    assert "\U00012000" in warning


@pytest.mark.exhaustive
def test_a_page_fits_a_telephone_and_its_contents_stay_in_view(report, open_page):
    page = open_page(report, 390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.evaluate("scrollTo(0, 2000)")
    contents = page.locator(".toc summary")
    assert 0 <= contents.bounding_box()["y"] < 30
    assert not page.locator(".toc a").first.is_visible()
    contents.click()
    page.locator(".toc a", has_text="confuse").click()
    assert not page.locator(".toc a").first.is_visible()
    assert 0 < page.locator("h2", has_text="confuse").bounding_box()["y"] < 200


@pytest.mark.exhaustive
def test_a_page_prints_on_a4_without_cut_tables(report, open_page):
    page = open_page(report)
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    page.set_viewport_size({"width": A4_PIXELS, "height": 1000})
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    for table in page.locator("table:visible").all():
        box = table.bounding_box()
        assert box["x"] + box["width"] <= A4_PIXELS + 1
    rows, heads = page.locator("tbody tr").first, page.locator("thead").first
    assert rows.evaluate("row => getComputedStyle(row).breakInside") == "avoid"
    assert heads.evaluate("head => getComputedStyle(head).display") == "table-header-group"


HEADINGS_WITHOUT_CONTENT = """() => {
  const isVisible = (element) => element.checkVisibility() && element.offsetHeight > 0;
  const isHeading = (element) => /^H[1-3]$/.test(element.tagName);
  return [...document.querySelectorAll("h1, h2, h3")].filter(isVisible).filter((heading) => {
    let next = heading.nextElementSibling;
    while (next && !isVisible(next)) next = next.nextElementSibling;
    return !next || (isHeading(next) && next.tagName <= heading.tagName);
  }).map((heading) => heading.textContent);
}"""


def test_on_paper_headers_are_text_over_their_columns_and_headings_have_content(report, open_page):
    page = open_page(report, 390)
    assert page.evaluate(HEADINGS_WITHOUT_CONTENT) == []
    page.emulate_media(media="print")
    assert page.evaluate(HEADINGS_WITHOUT_CONTENT) == []
    for header in page.locator("thead th").all():
        # A sticky header moves away from its column, and a button is not repeated on each page.
        assert header.evaluate("cell => getComputedStyle(cell).position") == "static"
        for button in header.get_by_role("button").all():
            assert button.evaluate("button => getComputedStyle(button).display") == "contents"
    details = page.locator(".about")
    assert details.locator("table").first.is_visible()  # though it is folded on the screen


def test_a_wide_table_begins_with_the_results_beside_the_names(tmp_path, open_page):
    number = Number("50.00", Bar(0.5))
    rows = [[f"long-name-{n}", *"abcdefgh", number] for n in range(3)]
    header = ["file", *[f"setting {n}" for n in range(8)], "accuracy (%)"]
    for n, row in enumerate(rows):
        row[1:9] = [f"{value} {n % 2}" for value in row[1:9]]
    page = open_page(write_page(tmp_path / "page.html", Table(header, rows, 9)), 390)
    first, last = (page.locator("tbody tr").first.locator("th, td").nth(n) for n in (0, -1))
    box, name, result = (one.bounding_box() for one in (page.locator(".scroll"), first, last))
    assert name["x"] == pytest.approx(box["x"], abs=2)
    assert result["x"] == pytest.approx(name["x"] + name["width"], abs=2)  # no cell is cut
    assert first.locator(".text").inner_text() == "long-name-0"


def test_names_are_text(report, collection, open_page):
    page = open_page(report)
    assert page.locator("script").count() == 1
    text = page.locator("main").inner_text()
    assert NAMES[0] in text
    assert "img.svm.classes.png" in page.locator(".left-out").inner_text()
    page = open_page(collection)
    assert page.locator("main b, main em, main a[href^=h]").count() == 0
    assert "no.h5" in page.locator(".left-out").inner_text()


def test_pictures_lose_no_pixel(report):
    original = report.parent / "results" / "attributes.png"
    uris = re.findall('src="data:image/(?:png|webp);base64,([^"]*)"', report.read_text("utf-8"))
    assert len(uris) == 2
    for uri in uris:
        content = base64.b64decode(uri)
        assert len(content) < original.stat().st_size
        with Image.open(io.BytesIO(content)) as image, Image.open(original) as expected:
            np.testing.assert_array_equal(image.convert("RGB"), expected)


def test_a_page_of_one_result_has_pictures_with_findings_and_folds_its_details(
    collection, tmp_path, open_page
):
    ok("report", collection.parent / "results" / "img.svm.h5", "-o", tmp_path / "page.html")
    page = open_page(tmp_path / "page.html")
    captions = page.locator("figure.picture figcaption").all_text_contents()
    assert len(captions) == 2  # the confusion and the classes
    assert page.locator("figure.picture:visible").count() == 1
    for image, caption in zip(page.locator("figure.picture img").all(), captions, strict=True):
        finding = caption.removesuffix("Click to enlarge.").strip(" .")
        assert image.get_attribute("alt").startswith(f"{finding}. ")
        assert re.search(r"\d\.\d", image.get_attribute("alt"))
    number = page.locator(".summary strong").first
    assert number.inner_text().endswith("%")
    assert float(number.evaluate("node => parseFloat(getComputedStyle(node).fontSize)")) > 40
    folded = page.locator("details:not(.toc, [open])").all_text_contents()
    assert any("The 95 % interval is" in text for text in folded)
    assert any("reported by" in text for text in folded)
