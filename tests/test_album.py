"""The album of a report: which images it shows, what their thumbnails hold, how a page filters."""

import base64
import contextlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from factories import MODEL
from PIL import Image
from shell import fails, ok

from clipkit import datasets
from clipkit.analysis.predict import prediction
from clipkit.base.errors import ClipkitError
from clipkit.features import FeatureFile, Split, hdf5, read, write
from clipkit.plots.confusion import confusion, confusion_boxes
from clipkit.report import album, of_files, summary
from clipkit.report.blocks import Fact, Page
from clipkit.report.html import as_html
from clipkit.statistics import claims

NAMES = ["<script>alert(1)</script>", 'it\'s "quoted" & more', "חתול", "犬"]


def collect(results, controls, dataset, limit=album.LIMIT):
    return album.collect(album.choose_sources(results, controls), dataset, limit)


def render(shown):
    return as_html(Page("Report", []), shown)


def history(command, **parameters):
    return [
        {"command": "embed", "model": MODEL, "dataset": {"name": "photos"}},
        {"command": command, **parameters},
    ]


def result(predicted, ids, **parameters):
    """Return a result of zero-shot classification, where the classes of images take turns."""
    labels = np.arange(len(ids)) % len(NAMES)
    file = FeatureFile("result", history("zeroshot", **parameters), class_names=list(NAMES))
    file.splits["test"] = Split(labels=labels, ids=ids, predicted=np.array([predicted]))
    return file


@pytest.fixture
def photos(tmp_path):
    """Eight JPEGs of four classes with EXIF, GPS, a comment and an ICC profile, one damaged."""
    lines = ["path,label,split,id"]
    for number in range(8):
        exif = Image.Exif()
        exif[0x010F] = "SECRET CAMERA"
        exif.get_ifd(0x8825)[1] = "N"
        exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
        path = tmp_path / f"{number}.jpg"
        size = (400, 100) if number == 1 else (32, 32)
        Image.new("RGB", size, (30 * number, 99, 0)).save(
            path, exif=exif, comment=b"SECRET COMMENT", icc_profile=b"SECRET PROFILE" * 20
        )
        name = NAMES[number % 4].replace('"', '""')
        lines.append(f'{path.name},"{name}",test,{number}.jpg')
    (tmp_path / "3.jpg").write_bytes((tmp_path / "3.jpg").read_bytes()[:400])
    (tmp_path / "photos.csv").write_text("\n".join(lines), encoding="utf-8")
    data = datasets.load(tmp_path / "photos.csv")
    number = {name: label for label, name in enumerate(data.class_names)}
    assert number.keys() == set(NAMES)
    return data


IDS = [f"{number}.jpg" for number in range(8)]
WRONG = [0, 0, 2, 3, 0, 1, 3, 3]  # of the labels 0, 1, 2, 3, 0, 1, 2, 3
CONTROL = [1, 1, 2, 0, 1, 0, 2, 0]


def pictures(shown):
    uris = [image.thumbnail.uri for image in shown.images if image.thumbnail.uri]
    return [base64.b64decode(uri.partition(",")[2]) for uri in uris]


def test_all_images_of_a_small_split_are_shown_errors_first(photos):
    shown = collect([result(WRONG, IDS)], [], photos)
    assert [image.id for image in shown.images] == [
        *("1.jpg", "6.jpg"),
        *("0.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg", "7.jpg"),
    ]
    first = shown.images[0]
    assert first.alt == f"true: {NAMES[1]}, predicted: {NAMES[0]}"
    assert (first.outcome, first.score, first.control) == ("0", None, None)
    assert shown.classes[0] == (NAMES[1], 2, 1)
    assert shown.total == 8


def test_thumbnails_hold_pixels_and_no_metadata(photos):
    shown = collect([result(WRONG, IDS)], [], photos)
    found = pictures(shown)
    assert len(found) == 7
    for picture in found:
        assert b"SECRET" not in picture
        with Image.open(io.BytesIO(picture)) as image:
            assert not image.getexif()
            assert not set(image.info) & {"exif", "icc_profile", "comment", "xmp", "dpi"}
    size_of = {image.id: (image.thumbnail.width, image.thumbnail.height) for image in shown.images}
    assert (size_of["0.jpg"], size_of["1.jpg"]) == ((32, 32), (128, 32))


def test_a_damaged_image_is_a_placeholder_with_its_reason(photos):
    shown = collect([result(WRONG, IDS)], [], photos)
    (damaged,) = [image for image in shown.images if image.thumbnail.problem]
    assert damaged.id == "3.jpg"
    assert damaged.thumbnail.uri == ""
    page = render(shown)
    assert damaged.thumbnail.problem in page
    assert "/tmp" not in page  # no path of this machine


@pytest.mark.exhaustive
def test_noise_stays_within_the_budget():
    noise = np.random.default_rng(0).integers(0, 256, (1200, 200, 200, 3), np.uint8)
    data = datasets.ImageDataset.from_array(noise, np.zeros(1200))
    total = sum(len(thumbnail.uri) for thumbnail in album.thumbnails(data.take(np.arange(99))))
    assert total < album.MAX_BYTES
    budget = album.MAX_BYTES * 3 // 4 // 1200
    assert len(album.encode(data.image(0), budget).uri) * 1200 < 3_000_000


def select(n, limit, **changes):
    true = np.array([f"class {row % 10}" for row in range(n)])
    predicted = true.copy()
    predicted[::2] = "class 3"
    arguments = {
        "true": true,
        "predicted": predicted,
        "scores": np.linspace(0, 1, n),
        "control_is_right": None,
        **changes,
    }
    return album.select_rows(**arguments, limit=limit).tolist()


def test_the_most_confident_errors_come_first():
    rows = select(1000, 40)
    assert rows[:5] == [998, 996, 994, 992, 990]
    assert len(set(rows)) == 40
    assert select(1000, 40, scores=np.full(1000, np.nan))[:3] == [0, 2, 4]
    assert select(30, 30, true=None) == list(range(30))  # the least confident first


def test_every_confusion_has_an_image_and_the_most_frequent_come_first():
    true = np.repeat(["a", "b", "c"], 100)
    predicted = np.repeat(["b"] * 97 + ["c"] * 3 + ["b"] * 99 + ["a"] + ["a"] * 100, 1)
    for scores in (np.linspace(0, 1, 300), np.full(300, np.nan)):
        for limit, expected in ((12, {"ab", "ac", "ba", "ca"}), (4, {"ab", "ca"})):
            rows = select(300, limit, true=true, predicted=predicted, scores=scores)
            errors = [row for row in rows if true[row] != predicted[row]]
            assert {true[row] + predicted[row] for row in errors} >= expected


def test_every_class_has_some_images():
    assert {row % 10 for row in select(1000, 40)} == set(range(10))
    few = np.array(["often"] * 997 + ["rare", "seldom", "scarce"])
    rows = select(1000, 20, true=few, predicted=few)
    assert {997, 998, 999} <= set(rows)


def test_examples_and_what_only_the_result_gets_right_are_among_the_images():
    true = np.array([f"class {row % 100}" for row in range(1000)])
    rows = select(1000, 100, true=true, predicted=np.roll(true, 1), examples=[7, 108, 209])
    assert {7, 108, 209} <= set(rows)
    assert len(set(rows)) == 100
    control_is_right = np.ones(1000, bool)
    control_is_right[[501, 503, 505]] = False
    assert {501, 503, 505} <= set(select(1000, 40, control_is_right=control_is_right))


def test_the_control_stands_beside_the_result(photos):
    control = result(CONTROL, IDS)
    control.history[0] |= {"model": {**MODEL, "untrained": 1}}
    shown = collect([result(WRONG, IDS)], [control], photos)
    assert (shown.name, shown.control_name) == ("m", "untrained m")
    outcomes = {image.id: image.outcome for image in shown.images}
    assert outcomes == dict(zip(IDS, ["10", "01", "11", "10", "10", "10", "01", "10"], strict=True))
    among_results = collect([control, result(WRONG, IDS)], [], photos)
    assert (among_results.name, among_results.control_name) == ("m", "untrained m")
    assert collect([control], [], photos).name == "untrained m"


@pytest.mark.parametrize("what", ["another command", "other images", "a contradiction", "trained"])
def test_what_is_no_control_does_not_stand_beside_the_result(what, photos):
    ids = [f"other {row_id}" for row_id in IDS] if what == "other images" else IDS
    control = result(WRONG if what == "trained" else CONTROL, ids)
    if what == "another command":
        control.history[0] |= {"model": {**MODEL, "untrained": 1}}
        control.history[1]["command"] = "probe"
    if what == "a contradiction":
        control.set_rows([{"split": "test"}, {"split": "test"}])  # of one row of predictions
    assert collect([result(WRONG, IDS)], [control], photos).control_name == ""


def test_of_a_pair_the_second_result_stands_beside_the_first(photos):
    second = result(CONTROL, IDS)
    second.history[1]["command"] = "probe"
    shown = collect([result(WRONG, IDS), second], [], photos)
    assert shown.images[0].predicted == NAMES[0]  # of zero-shot
    assert (shown.name, shown.control_name) == ("zeroshot", "probe")


def test_a_fitted_result_leads_only_an_album_of_its_own_and_is_named_as_such(photos):
    fair, fitted = result(CONTROL, IDS), result(WRONG, IDS)
    fair.history[1]["command"] = "probe"
    caveat = {"kind": "fitted", "split": "test", "count": 8, "rows": 8}
    fitted.history[1] |= {"command": "probe", "caveats": [caveat]}
    shown = collect([fitted, fair], [], photos)
    assert shown.label == "probe, on test"
    assert {image.predicted for image in shown.images} == {NAMES[number] for number in CONTROL}
    alone = collect([fitted], [], photos)
    assert "on test; 8 of 8 images of test were also fitted: the accuracy" in alone.label
    assert alone.label in render(alone)


def test_a_folder_called_shapes_has_no_attributes(photos):
    file = result(WRONG, IDS)
    file.history[0]["dataset"] = {"name": "shapes"}
    assert collect([file], [], replace(photos, name="shapes")).attributes == {}


def test_images_that_the_data_set_lacks_are_named(photos, capsys):
    ids = [*IDS[:6], "gone.jpg", "lost.jpg"]
    shown = collect([result(WRONG, ids)], [], photos)
    assert len(shown.images) == 6
    assert shown.missing == "photos lacks 2 of 8 images, for example gone.jpg"
    assert capsys.readouterr().err.count("gone.jpg") == 1
    assert shown.missing in render(shown)


@pytest.mark.parametrize(
    ("split", "change", "message"),
    [
        ("test", {"ids": [f"other {number}" for number in range(8)]}, "8 of 8 images of test"),
        ("test", {"labels": np.arange(8)[::-1] % 4}, "the classes of the file, got 8 that differ"),
        ("val", {}, "expected the split val of the file, got test"),
    ],
)
def test_another_data_set_is_refused(photos, split, change, message):
    file = result(WRONG, IDS)
    file.splits = {split: replace(file.splits["test"], **change)}
    with pytest.raises(ClipkitError, match=message):
        collect([file], [], photos)


def logits(ids):
    """Return logits with a prompt for each class: the cosine is 1 for the predicted class."""
    file = FeatureFile("logits", history("logits"), class_names=list(NAMES))
    file.texts, file.class_index = [f"a {name}" for name in NAMES], np.arange(4)
    file.temperature, file.logit_scale = 1.0, 2.0
    cosines = np.eye(4, dtype="f4")[WRONG] * np.linspace(0.5, 1, 8, dtype="f4")[:, None]
    file.splits["test"] = Split(cosines, np.arange(8) % 4, ids)
    return file


def test_scores_of_zero_shot_are_probabilities_at_the_models_temperature(photos):
    source = logits(IDS)
    file = result(WRONG, IDS, inputs={"logits": source.digest})
    shown = collect([source, file], [], photos)
    scores = {image.id: image.score for image in shown.images}
    assert scores["7.jpg"] == pytest.approx(np.exp(2) / (np.exp(2) + 3))
    assert [image.id for image in shown.images][:3] == ["6.jpg", "1.jpg", "7.jpg"]
    assert shown.images[2].score_text == "71 %"
    assert "most confident errors first" in render(shown)
    assert "softmax over the classes at temperature 0.5" in shown.score_name


def test_prompts_show_their_nearest_and_farthest_images(photos):
    shown = collect([logits(IDS), result(WRONG, IDS)], [], photos, limit=2)
    assert len(shown.images) == 2
    assert [found.prompt for found in shown.prompts] == [f"a {name}" for name in NAMES]
    third = shown.prompts[3]
    assert [tile.image.id for tile in third.nearest] == ["7.jpg", "6.jpg", "3.jpg"]
    assert third.nearest[0].cosine == pytest.approx(1)
    page = render(shown)
    used = {image.number for image in shown.images}
    for found in shown.prompts:
        used |= {tile.image.number for tile in found.nearest + found.farthest}
    assert page.count('src="data:image/webp') + page.count('src="data:image/jpeg') == len(
        [number for number in used if number != 3]  # which is damaged
    )


def test_prompts_of_another_model_are_not_shown(photos):
    other = logits(IDS)
    other.history[0] = {**other.history[0], "model": {**MODEL, "digest": "sha256:9"}}
    assert collect([other, result(WRONG, IDS)], [], photos).prompts == []


@pytest.mark.long
def test_the_summary_its_worst_class_and_the_album_are_about_one_result(
    photos, tmp_path, monkeypatch
):
    def lowest_class(scored, source):  # of eight images, none is decided
        return [Fact("Lowest class", "", source, class_name=NAMES[1])]

    monkeypatch.setattr(summary, "lowest_class", lowest_class)
    probe = result([0, 3, 2, 3, 0, 2, 2, 3], IDS)  # class 1 is wrong twice, once as class 3
    probe.history[1]["command"] = "probe"
    write(str(tmp_path / "probe.h5"), probe)
    write(str(tmp_path / "zeroshot.h5"), result(CONTROL, IDS))
    page = of_files([tmp_path / "probe.h5", tmp_path / "zeroshot.h5"])
    assert page.main_result("photos") == (page.results["probe.h5"], NAMES[1])
    shown = album.read_album(page, photos)
    assert (shown.name, shown.control_name) == ("probe", "zeroshot")
    assert [(image.id, image.predicted) for image in shown.examples] == [
        ("1.jpg", NAMES[3]),
        ("5.jpg", NAMES[2]),
    ]
    predicted_in_album = {image.id: image.predicted for image in shown.images}
    assert {image.id: image.predicted for image in shown.examples}.items() <= (
        predicted_in_album.items()
    )
    text = as_html(page, shown)
    head = text[text.index('<dl class="summary">') : text.index('id="album"')]
    assert head.count('src="data:image/webp') == 2


@pytest.mark.long
def test_a_manifest_is_read_by_the_columns_that_embed_read(photos, tmp_path):
    manifest = tmp_path / "photos.csv"
    manifest.write_text(manifest.read_text("utf-8").replace("path,", "file,", 1), "utf-8")
    file = result(WRONG, IDS)
    file.history[0]["dataset"] |= {"source": "manifest", "columns": {"path": "file"}}
    write(str(tmp_path / "a.h5"), file)
    ok("report", tmp_path / "a.h5", "--images", manifest, "-o", tmp_path / "a.html")
    assert 'id="album"' in (tmp_path / "a.html").read_text("utf-8")


@pytest.mark.long
def test_without_the_images_a_report_has_no_album_and_downloads_none(photos, tmp_path):
    page, gone = tmp_path / "a.html", tmp_path / "gone"
    file = result(WRONG, IDS)
    for name, words in (
        ("photos", [gone / "photos.csv"]),
        ("cifar10", ["cifar10", "--root", gone]),
    ):
        file.history[0]["dataset"]["name"] = name
        write(str(tmp_path / "a.h5"), file, force=True)
        run = ok("report", tmp_path / "a.h5", "-f", "-o", page, "--images", *words)
        warning = f"left out the album: the images of {Path(words[0]).name} are not on this machine"
        assert f"clipkit: warning: {warning}\n" in run.stderr
        assert 'id="album"' not in page.read_text("utf-8")
        assert not gone.exists()
    message = fails("report", tmp_path / "a.h5", "-f", "-o", page, "--images", gone / "other.csv")
    assert "there is no such file" in message


def test_the_most_frequent_error_comes_first_among_examples(photos):
    file = result([0, 1, 2, 2, 0, 0, 0, 0], IDS)
    file.splits["test"].labels = np.zeros(8, np.int64)
    photos.splits["test"].labels[:] = photos.class_names.index(NAMES[0])
    shown = album.collect(album.choose_sources([file], []), photos, worst_class=NAMES[0])
    assert [image.id for image in shown.examples] == ["2.jpg", "3.jpg", "1.jpg"]


@pytest.mark.long
def test_a_report_opens_and_checks_each_file_once(photos, tmp_path, monkeypatch):
    write(str(tmp_path / "a.h5"), result(WRONG, IDS))
    write(str(tmp_path / "b.h5"), logits(IDS))
    opened = []
    check = hdf5.CheckedFile.__init__

    def count(self, source, name):
        opened.append(Path(name).name)
        check(self, source, name)

    monkeypatch.setattr(hdf5.CheckedFile, "__init__", count)
    page = tmp_path / "page.html"
    ok("report", tmp_path, "--images", tmp_path / "photos.csv", "-o", page)
    assert sorted(opened) == ["a.h5", "b.h5"]
    assert "nearest to each prompt" in page.read_text("utf-8")  # which takes the features of b.h5


def test_an_album_uses_no_file_that_the_report_left_out(photos, tmp_path):
    kept, damaged = tmp_path / "b.h5", tmp_path / "a.h5"
    probe = result(WRONG, IDS)
    probe.history[1]["command"] = "probe"
    write(str(kept), probe)
    write(str(damaged), result(CONTROL, IDS))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    page = of_files([damaged, kept])
    assert [*page.results] == ["b.h5"]
    assert album.read_album(page, photos).control_name == ""


def test_an_unlabelled_result_is_shown(photos):
    file = result(WRONG, IDS)
    file.splits["test"].labels = None
    shown = collect([file], [], photos)
    assert shown.classes == []
    assert shown.images[0].alt == f"predicted: {NAMES[0]}"
    assert "by row" in render(shown)


@pytest.fixture(scope="module")
def shapes_folders(tmp_path_factory):
    """A folder with embeddings of `shapes` and a kept probe on them, and that of a control."""
    folders = tmp_path_factory.mktemp("shapes"), tmp_path_factory.mktemp("control")
    for folder, options in zip(folders, ([], ["--untrained", 7]), strict=True):
        data = ("shapes", "--limit", 150, "--model", "tiny", "--precision", "fp32", *options)
        ok("embed", *data, "-o", folder / "img.h5")
        probe = ("probe", folder / "img.h5", "--classifier", "logreg", "--keep")
        ok(*probe, "-o", folder / "img.logreg.h5")
    return folders


@pytest.fixture(scope="module")
def lowest_is_named():
    """Name the lowest classes of a page, although so few images hardly decide which they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "are_lower", lambda *_: True)
        yield


@pytest.fixture(scope="module")
def shapes_album(shapes_folders, lowest_is_named):
    """An album of 60 images of `shapes`, with a control and attributes."""
    results, control = shapes_folders
    with contextlib.ExitStack() as stack:
        page = of_files([results], [control], stack=stack)
        shown = album.read_album(page, datasets.load("shapes"), 60)
    assert shown is not None
    return shown


@pytest.fixture(scope="module")
def shapes_page(shapes_folders, lowest_is_named):
    """The report of the same folders with the same album."""
    results, control = shapes_folders
    page = results / "report.html"
    ok("report", results, "--control", control, "--images", "shapes", "--album", 60, "-o", page)
    return page


@pytest.mark.long
def test_a_report_without_predicted_classes_has_no_album(shapes_folders, tmp_path):
    ok("cluster", shapes_folders[0] / "img.h5", "-k", 3, "-o", tmp_path / "cluster.h5")
    page = tmp_path / "report.html"
    words = ("report", tmp_path / "cluster.h5", "-o", page, "--images")
    assert (
        "left out the album of images: no result has predicted classes"
        in ok(*words, "shapes").stderr
    )
    assert 'id="album"' not in page.read_text()
    assert "did you mean shapes?" in fails(*words, "shape", "-f", exit_code=2)


@pytest.mark.long
def test_scores_of_a_kept_probe_are_its_probabilities(shapes_album, shapes_folders):
    probe, images = (read(shapes_folders[0] / name) for name in ("img.logreg.h5", "img.h5"))
    found = prediction.predict(probe, images, ["test"])
    ids = images.splits["test"].ids
    score_of = dict(zip(ids, found.rankings["test"].scores[:, 0], strict=True))
    assert [image.score for image in shapes_album.images] == [
        pytest.approx(score_of[image.id]) for image in shapes_album.images
    ]
    assert shapes_album.control_name == "untrained tiny"


@pytest.mark.long
def test_images_of_shapes_have_their_attributes(shapes_album):
    from clipkit.shapes.attributes import attributes

    names = {number: text for of in shapes_album.attributes.values() for number, text in of.items()}
    table = attributes([int(shapes_album.images[0].id)], split="test", seed=0)
    shown = {names[number] for number in shapes_album.images[0].values}
    assert shown == {str(table[name][0]) for name in shapes_album.attributes} - {""}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--images cifar10 -o no.html", "images of shapes, got images of cifar10"),
        ("--images shapes -o no.md", "expected an output that ends in .html"),
        ("--images shapes", "expected an output that ends in .html"),
    ],
)
def test_unusable_options_are_refused(tmp_path, words, message):
    file = result(WRONG, IDS)
    file.history[0]["dataset"]["name"] = "shapes"
    write(str(tmp_path / "a.h5"), file)
    assert message in fails("report", tmp_path / "a.h5", *words.split(), exit_code=2)


@pytest.fixture
def page(open_page, shapes_page):
    return open_page(shapes_page, 390)


def visible(page):
    return int(page.locator(".album-images > li:visible").count())


def test_a_page_filters_and_counts(page, shapes_album):
    count = page.locator(".album-count")
    assert count.inner_text() == "24 of 60 images shown"
    for label, option, expected in (
        ("Result", "0", [image.outcome[0] == "0" for image in shapes_album.images]),
        ("Result", "10", [image.outcome == "10" for image in shapes_album.images]),
        ("Attribute", "3", [3 in image.values for image in shapes_album.images]),
    ):
        page.get_by_label(label, exact=True).select_option(option)
        assert visible(page) == min(sum(expected), 24) > 0
        assert count.inner_text() == f"{min(sum(expected), 24)} of {sum(expected)} images shown"
        page.get_by_role("button", name="Show all").click()
        page.locator(".album-count", has_text="24 of 60").wait_for()
    worst = shapes_album.classes[0].name
    page.get_by_label("True class, fewest right first").select_option(worst)
    assert visible(page) == sum(image.true == worst for image in shapes_album.images) > 0


def test_as_many_images_as_the_page_names_are_on_paper(page):
    page.emulate_media(media="print")
    assert page.locator(".album-count").inner_text() == "24 of 60 images shown"
    assert visible(page) == 24


@pytest.mark.exhaustive
def test_a_page_sorts_by_score(page, shapes_album):
    page.get_by_label("Order").select_option("rising")
    scores = page.eval_on_selector_all(
        ".album-images > li:not([hidden])", "items => items.map(item => +item.dataset.score)"
    )
    assert scores == sorted(scores)
    page.get_by_label("Order").select_option("")
    page.get_by_role("button", name="Show 24 more").click()
    page.get_by_role("button", name="Show 24 more").click()
    ids = page.eval_on_selector_all(".album-id", "items => items.map(item => item.innerText)")
    assert ids == [image.id for image in shapes_album.images]


@pytest.mark.exhaustive
def test_a_page_is_used_by_keyboard_and_fits_a_phone(page):
    page.locator("#album-true").focus()
    for name in ("true", "predicted", "outcome", "value", "order"):
        assert page.evaluate("document.activeElement.name") == name
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.type") == "reset"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "album-more"
    for width in (390, 1600):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.exhaustive
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_album_has_no_accessibility_fault(page, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is missing")
    page.emulate_media(color_scheme=scheme)
    found = axe.Axe().run(page, context="#album").response["violations"]
    assert [(violation["id"], violation["impact"]) for violation in found] == []


def test_names_are_text_in_a_browser(open_page, photos, tmp_path):
    shown = collect([logits(IDS), result(WRONG, IDS)], [], photos)
    (tmp_path / "report.html").write_text(render(shown), encoding="utf-8")
    tab = open_page(tmp_path / "report.html")
    for name in NAMES:
        tab.get_by_label("True class, fewest right first").select_option(name)
        assert tab.locator(".album-count").inner_text() == "2 of 2 images shown"
    loaded = "images => images.every(image => image.complete && image.naturalWidth > 1)"
    assert tab.eval_on_selector_all(".album img", loaded)


def test_more_images_are_those_of_the_class_errors_first(page, shapes_album):
    page.get_by_label("Result", exact=True).select_option("1")
    link = page.get_by_text("More images")
    worst = link.get_attribute("data-true")
    link.click()
    of_class = [image.outcome[0] for image in shapes_album.images if image.true == worst]
    shown = page.locator(".album-images > li:visible")
    assert {item.get_attribute("data-true") for item in shown.all()} == {worst}
    assert [item.get_attribute("data-outcome")[0] for item in shown.all()] == sorted(of_class)
    assert (
        page.locator(".album-count").inner_text()
        == f"{len(of_class)} of {len(of_class)} images shown"
    )


def test_a_cell_of_the_confusion_leads_to_its_images(open_page, photos, tmp_path):
    write(str(tmp_path / "a.h5"), result(WRONG, IDS))
    page = of_files([tmp_path / "a.h5"])
    text = as_html(page, album.read_album(page, photos))
    assert 'class="place"' not in as_html(page)
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    tab = open_page(tmp_path / "report.html")
    names = [place.get_attribute("title") for place in tab.locator(".place").all()]
    pairs = [(0, 0, "2 images"), (1, 0, "1 image"), (1, 1, "1 image"), (2, 2, "1 image")]
    pairs += [(2, 3, "1 image"), (3, 3, "2 images")]
    assert names == [f"{NAMES[i]} predicted as {NAMES[j]}: {images}" for i, j, images in pairs]
    picture = tab.locator(".picture img").first.bounding_box()
    for place in tab.locator(".place").all():
        box = place.bounding_box()
        assert picture["x"] < box["x"] < box["x"] + box["width"] < picture["x"] + picture["width"]
        assert picture["y"] < box["y"] < box["y"] + box["height"] < picture["y"] + picture["height"]
    tab.locator(".place").first.focus()
    tab.keyboard.press("Enter")
    assert tab.locator(".album-count").inner_text() == "2 of 2 images shown"
    tab.locator(".album-images > li:target").wait_for()


def test_a_click_on_a_cell_says_of_how_many_images_the_page_has_some(open_page, photos, tmp_path):
    write(str(tmp_path / "a.h5"), result(WRONG, IDS))
    page = of_files([tmp_path / "a.h5"])
    text = as_html(page, album.read_album(page, photos, limit=3))
    (tmp_path / "report.html").write_text(text, encoding="utf-8")
    tab = open_page(tmp_path / "report.html")
    first = tab.locator('.place[data-total="2"]').first
    assert ": 1 of 2 images" in first.get_attribute("title")
    first.focus()
    tab.keyboard.press("Enter")
    count = tab.locator(".album-count")
    assert count.inner_text() == "1 of 2 images shown; the page holds 1"
    tab.get_by_role("button", name="Show all").click()
    tab.locator(".album-count", has_text="3 of 3 images shown").wait_for()


@pytest.mark.parametrize(("classes", "pictures"), [(41, 0), (40, 1)])
def test_clusters_of_more_classes_than_can_be_read_are_not_drawn(classes, pictures, tmp_path):
    file = FeatureFile("result", history("cluster"), class_names=[f"c{n}" for n in range(classes)])
    ids, labels = [f"{n}.jpg" for n in range(classes)], np.arange(classes)
    file.splits["test"] = Split(labels=labels, ids=ids, predicted=labels[None])
    file.set_rows([{"split": "test", "k": classes}])
    write(str(tmp_path / "a.h5"), file)
    page = as_html(of_files([tmp_path / "a.h5"]))
    assert page.count('src="data:image/svg') == pictures


def test_places_of_a_confusion_are_its_cells_or_the_rows_of_the_largest():
    counts = np.array([[9, 1], [0, 10]])
    figure = confusion(counts, ["a", "b"])
    figure.draw_without_rendering()
    (*_, first), (*_, right), (*_, last) = confusion_boxes(figure, counts)
    assert right == pytest.approx([first[0] + first[2], *first[1:]])
    assert last == pytest.approx([right[0], first[1] + first[3], *first[2:]])
    many = np.eye(50, dtype=int) + np.diag(np.arange(49, 0, -1), k=1)
    figure = confusion(many, [f"class {number}" for number in range(50)])
    figure.draw_without_rendering()
    rows = confusion_boxes(figure, many)
    assert [pair for *pair, _ in rows] == [[number, number + 1] for number in range(20)]
    assert all((box[0], box[2]) == (0, 100) for *_, box in rows)
