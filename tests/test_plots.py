"""Figures are checked by what they hold (scales, lines, labels, values) and by the bytes that they are written as."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from clipkit import plots
from clipkit.errors import UsageError
from clipkit.plots import Sweep

ODD = [
    "pickup_truck",
    "_hidden",
    "$x^2$",
    "$unclosed",
    r"\frac{1}",
    "a\nb\x1b[31m",
    "猫",
    "x" * 300,
    "",
    "&<b>",
]
TAU = [0.02, 1.0, 0.07, 0.5]  # in no order


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(42)


def png(fig: Figure) -> bytes:
    buffer = io.BytesIO()
    plots.save(fig, buffer, "png")
    return buffer.getvalue()


def odd(n: int) -> list[str]:
    return [f"{ODD[i % len(ODD)]}{i if i >= len(ODD) else ''}" for i in range(n)]


def texts(fig: Figure) -> list[str]:
    """Everything that is written on a figure."""
    return [text.get_text() for text in fig.findobj(matplotlib.text.Text)]


def tick_texts(axis: matplotlib.axis.Axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def sweep(label: str = "svm, C = 1, test") -> Sweep:
    return Sweep(label, TAU, [0.63, 0.29, 0.64, 0.51], [2.8957, 3.4656, 3.4206, 3.4649])


def examples() -> dict[str, Figure]:
    """One of each, made anew."""
    rng = np.random.default_rng(0)
    return {
        "confusion": plots.confusion(
            rng.integers(0, 9, (10, 10)), odd(10), title="Of $all$ and _none_"
        ),
        "temperature": plots.temperature([sweep(), sweep("_knn $k$")], 32),
        "entropy": plots.entropy({1.0: 3.4656 - rng.random(50) / 1e4, 0.02: rng.random(50)}, 32),
        "logits": plots.logits(rng.random((3, 10)), odd(3), odd(10)),
        "similarity": plots.similarity(rng.random((4, 10)), odd(4), odd(10), centred=True),
        "classes": plots.classes(rng.random(40), odd(40)),
        "confidence": plots.confidence(
            {1.0: 0.032 + rng.random(50) / 1e4, 0.02: rng.random(50)}, 32
        ),
        "contact_sheet": plots.contact_sheet(
            rng.integers(0, 255, (10, 8, 8, 3), np.uint8), odd(10)
        ),
        "grid": plots.grid(rng.random((3, 2)), [0.1, 1, 10], [1, 0.1]),
        "spectrum": plots.spectrum({"generic32": [3, 2, 1, 0], "$x$": [2, 1]}, {"generic32": 2.5}),
        "clusters": plots.clusters(rng.integers(0, 9, (10, 12)), odd(10)),
    }


# -- writing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", plots.FORMATS)
def test_the_same_figure_gives_the_same_bytes(ending: str, tmp_path: Path) -> None:
    once, again = examples(), examples()
    names = (
        list(once) if ending == "png" else ["confusion", "spectrum"]
    )  # with and without a bitmap
    for name in names:
        plots.save(once[name], tmp_path / f"{name}.{ending}")
        buffer = io.BytesIO()
        plots.save(again[name], buffer, ending)
        first = (tmp_path / f"{name}.{ending}").read_bytes()
        assert buffer.getvalue() == first, name
        assert first.startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending])
        assert b"Date" not in first


def test_png_has_200_dots_per_inch(tmp_path: Path) -> None:
    fig = plots.classes([0.5, 0.75], ["cat", "dog"])
    plots.save(fig, str(tmp_path / "classes.PNG"))
    with Image.open(tmp_path / "classes.PNG") as image:
        assert image.size == tuple((fig.get_size_inches() * 200).astype(int))
        assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)


@pytest.mark.parametrize("name", ["tau.jpg", "tau", "png", "archive.png.gz"])
def test_another_ending_is_a_usage_error_that_names_the_three(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.png, \.svg or \.pdf; got '.*" + name):
        plots.save(Figure(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_stream_needs_a_known_format() -> None:
    for format in (None, "gif"):
        with pytest.raises(UsageError):
            plots.save(Figure(), io.BytesIO(), format)


def test_no_pyplot_and_no_trace_in_the_global_settings() -> None:
    code = """
import sys, matplotlib
before = dict(matplotlib.rcParams.copy())
sys.path.insert(0, "tests")
import test_figures
for fig in test_figures.examples().values():
    test_figures.png(fig)
assert dict(matplotlib.rcParams.copy()) == before
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_a_users_matplotlibrc_changes_nothing() -> None:
    plain = png(plots.confusion([[9, 1], [2, 8]], ["$a$", "b"]))
    with matplotlib.rc_context(
        {"font.size": 30, "text.usetex": True, "axes.grid": False, "savefig.bbox": "tight"}
    ):
        assert png(plots.confusion([[9, 1], [2, 8]], ["$a$", "b"])) == plain


def test_names_and_prompts_are_shown_as_they_are() -> None:
    for name, fig in examples().items():
        png(fig)
        assert not any(
            text.get_parse_math() and "$" in text.get_text()
            for text in fig.findobj(matplotlib.text.Text)
        ), name
        assert not any("\n" in text or "\x1b" in text for text in texts(fig)), name
        assert max(len(text) for text in texts(fig)) < 80, name
    shown = tick_texts(examples()["confusion"].axes[0].yaxis)
    assert shown[:6] == ["pickup_truck", "_hidden", "$x^2$", "$unclosed", r"\frac{1}", "a b [31m"]
    assert shown[7] == "x" * 23 + "…"
    assert "_hidden" in texts(examples()["logits"])


# -- any size ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("C", "K"), [(1, 1), (2, 33), (31, 129), (200, 415)])
def test_any_number_of_classes_and_prompts(
    C: int, K: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipkit.plots.style.DPI", 40)  # faster
    with_gaps = rng.random((C, K))
    with_gaps[0] = np.nan
    png(plots.confusion(np.eye(C, dtype=int) * (np.arange(C) > 0), odd(C)))
    png(plots.clusters(rng.integers(0, 3, (C, K)) * (np.arange(C) > 0)[:, None], odd(C)))
    png(plots.similarity(with_gaps, odd(C), odd(K)))
    png(plots.similarity(with_gaps, odd(C), odd(K), centred=True))
    png(plots.logits(with_gaps[:30], odd(min(C, 30)), odd(K)))
    png(plots.classes(with_gaps[:, 0], odd(C), support=np.arange(C)))
    png(plots.entropy({0.5: np.full(9, math.log(K)), 0.1: [], 0.01: [np.nan, 0.0]}, K))
    png(plots.confidence({0.5: np.full(9, 1 / K), 0.1: [], 0.01: [np.nan, 1.0]}, K))
    png(plots.spectrum({"prompts": rng.random(K)}, {"prompts": (1 + K) / 2}))


def test_one_run_and_missing_values_can_be_drawn(rng: np.random.Generator) -> None:
    png(plots.temperature([Sweep("one", [1.0], [0.5], [3.4])], 32))
    png(plots.temperature([Sweep("none", [1.0, 0.5], [np.nan, np.nan], [np.nan, np.nan])], 32))
    png(
        plots.temperature(
            [Sweep(f"{i}", TAU, rng.random(4), low=[0] * 4, high=[1] * 4) for i in range(25)]
        )
    )
    png(plots.grid([[np.nan]], [1.0], [0.5]))
    png(plots.contact_sheet(np.zeros((1, 4, 6, 3), np.uint8), cols=8))


# -- what each one holds ----------------------------------------------------------------------------------------------


def test_confusion_rows_are_percentages_of_the_true_class() -> None:
    fig = plots.confusion(
        [[8, 2, 0], [1, 3, 0], [0, 0, 0]], ["cat", "dog", "owl"], title="Zero-shot"
    )
    ax = fig.axes[0]
    shown = ax.images[0].get_array()
    np.testing.assert_allclose(shown[:2].sum(axis=1), 100)
    np.testing.assert_allclose(shown[0], [80, 20, 0])
    assert shown.mask[2].all()
    assert ax.images[0].get_clim() == (0, 100)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted class", "true class")
    assert ax.get_title(loc="left") == "accuracy 78.57 %, N = 14 (grey: no images)"
    assert sorted(t.get_text() for t in ax.texts) == ["", "", "20.0", "25.0", "75.0", "80.0"]
    assert tick_texts(ax.xaxis) == tick_texts(ax.yaxis) == ["cat", "dog", "owl"]


def test_clusters_stand_below_the_classes_that_they_match() -> None:
    fig = plots.clusters([[0, 2, 8, 0], [6, 0, 0, 2], [0, 4, 0, 0]], ["cat", "dog", "owl"])
    ax = fig.axes[0]
    assert tick_texts(ax.xaxis) == ["2", "0", "1", "3"]
    np.testing.assert_allclose(
        ax.images[0].get_array(), [[80, 0, 20, 0], [0, 75, 0, 25], [0, 0, 100, 0]]
    )
    assert ax.get_title(loc="left") == "purity 0.9091, N = 22"
    fewer = plots.clusters([[0, 4], [3, 1], [5, 0]], ["cat", "dog", "owl"])
    assert tick_texts(fewer.axes[0].xaxis) == ["1", "0"]


def test_confusion_in_another_order() -> None:
    fig = plots.confusion([[8, 2, 0], [1, 3, 0], [0, 0, 6]], ["cat", "dog", "owl"], order=[2, 0])
    ax = fig.axes[0]
    np.testing.assert_allclose(ax.images[0].get_array(), [[100, 0], [0, 80]])
    assert tick_texts(ax.yaxis) == ["owl", "cat"]
    assert "N = 20" in ax.get_title(loc="left")


def test_confusion_of_100_classes_names_them_all_and_has_no_numbers() -> None:
    fig = plots.confusion(np.eye(100, dtype=int), [f"class_{i}" for i in range(100)])
    ax = fig.axes[0]
    assert len(tick_texts(ax.xaxis)) == len(tick_texts(ax.yaxis)) == 100
    assert not ax.texts
    png(fig)
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    pitch = (boxes[0].y0 - boxes[-1].y0) / 99 / fig.dpi * 72  # points
    assert 6 <= ax.get_yticklabels()[0].get_fontsize() < pitch


def test_temperature_falls_on_a_log_axis_and_the_best_point_is_starred() -> None:
    fig = plots.temperature([sweep()], 32)
    accuracy, entropy = fig.axes
    for ax in (accuracy, entropy):
        assert ax.get_xscale() == "log"
        assert ax.xaxis_inverted()
    curve, star = accuracy.lines
    np.testing.assert_allclose(curve.get_xydata(), [[0.02, 63], [0.07, 64], [0.5, 51], [1, 29]])
    assert star.get_xydata().tolist() == [[0.07, 64.0]]
    assert star.get_marker() == "*"
    assert [t.get_text() for t in accuracy.texts] == ["64.00 %"]
    assert tick_texts(entropy.xaxis) == ["1", "0.5", "0.07", "0.02"]
    assert entropy.get_ylabel() == "mean entropy (nats)"
    assert accuracy.get_ylabel() == "accuracy (%)"
    assert "svm, C = 1, test: best 64.00 % at τ = 0.07" in texts(fig)


def test_temperature_marks_the_maximum_entropy_inside_the_panel() -> None:
    for n_prompts in (16, 32):
        entropy = plots.temperature([sweep()], n_prompts).axes[1]
        assert entropy.lines[-1].get_ydata() == pytest.approx([math.log(n_prompts)] * 2)
        low, high = entropy.get_ylim()
        assert low < 2.8957
        assert math.log(n_prompts) < high
    assert "ln 32 = 3.4657" in texts(plots.temperature([sweep()], 32))


def test_an_entropy_that_all_sweeps_share_is_one_line() -> None:
    shared = plots.temperature([sweep("svm"), sweep("logreg")], 32).axes[1]
    assert len(shared.lines) == 2  # and ln K
    other = Sweep("other prompts", TAU, [0.1] * 4, [1.0, 2.0, 3.0, 3.0])
    assert len(plots.temperature([sweep("svm"), other], 32).axes[1].lines) == 3
    assert len(plots.temperature([Sweep("svm", TAU, [0.1] * 4)]).axes) == 1


def test_sweeps_differ_in_colour_and_marker() -> None:
    fig = plots.temperature([sweep(f"{i}") for i in range(7)], 32)
    curves = fig.axes[0].lines[::2]
    assert (
        len({line.get_color() for line in curves})
        == len({line.get_marker() for line in curves})
        == 7
    )


def test_intervals_are_drawn_around_the_accuracies() -> None:
    fig = plots.temperature(
        [Sweep("svm", [1, 0.5], [0.3, 0.5], low=[0.28, 0.47], high=[0.33, 0.52])]
    )
    segments = np.array(fig.axes[0].collections[0].get_segments())
    np.testing.assert_allclose(segments[:, :, 1], [[28, 33], [47, 52]])


def test_near_maximal_entropies_are_shown_as_their_distance_from_the_maximum() -> None:
    near = math.log(32) - np.linspace(1e-4, 2e-4, 100)
    ax = plots.entropy({1.0: near}, 32).axes[0]
    assert ax.get_xlabel() == "ln 32 − H (10⁻⁴ nats)"
    assert ax.xaxis_inverted()  # the maximum stays on the right
    mean, maximum = (line.get_xdata()[0] for line in ax.lines)
    assert mean == pytest.approx(1.5)
    assert maximum == 0
    assert ax.get_title(loc="right") == "mean 3.4656 nats"
    assert all(len(label) <= 5 for label in tick_texts(ax.xaxis))


def test_entropy_panels_fall_in_temperature_and_share_an_axis(rng: np.random.Generator) -> None:
    values = {0.02: 1 + rng.random(500), 1.0: np.full(500, 3.4656), 0.07: 3 + rng.random(500) / 9}
    fig = plots.entropy(values, 32)
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["τ = 1", "τ = 0.07", "τ = 0.02"]
    assert fig.axes[1].get_xlim() == fig.axes[2].get_xlim()
    assert fig.axes[2].get_xlabel() == "entropy H (nats)"
    for ax, tau in zip(fig.axes[1:], (0.07, 0.02), strict=True):
        mean, maximum = (line.get_xdata()[0] for line in ax.lines)
        assert mean == pytest.approx(values[tau].mean())
        assert maximum == pytest.approx(math.log(32))
        heights, *_ = ax.patches[0].get_data()
        assert heights.sum() == pytest.approx(100)
        assert ax.get_xlim()[0] < values[tau].min()
        assert maximum < ax.get_xlim()[1]


def test_confidence_marks_one_over_k(rng: np.random.Generator) -> None:
    values = {1.0: 1 / 32 + rng.random(500) / 300, 0.02: 0.2 + rng.random(500) / 2}
    flat, sharp = plots.confidence(values, 32).axes
    assert flat.get_xlabel() == "max p − 1/32 (percentage points)"
    assert not flat.xaxis_inverted()
    assert [line.get_xdata()[0] for line in flat.lines] == pytest.approx(
        [100 * (values[1.0].mean() - 1 / 32), 0]
    )
    assert [line.get_xdata()[0] for line in sharp.lines] == pytest.approx(
        [100 * values[0.02].mean(), 3.125]
    )


def test_logits_name_up_to_forty_prompts() -> None:
    prompts = [f"a photo of thing {i}" for i in range(41)]
    few = plots.logits(np.zeros((2, 40)), ["cat", "dog"], prompts[:40])
    assert tick_texts(few.axes[0].xaxis) == prompts[:40]
    many = plots.logits(np.zeros((2, 41)), ["cat", "dog"], prompts)
    assert many.axes[0].get_xlabel() == "number of the prompt, from 0"
    assert "a photo of thing 1" not in texts(many)


def test_similarity_has_a_row_a_prompt() -> None:
    means = np.array([[0.1, 0.2, 0.3], [0.2, 0.2, np.nan]])
    ax = plots.similarity(means, ["cat", "dog"], ["p", "q", "r"]).axes[0]
    np.testing.assert_allclose(ax.images[0].get_array().filled(np.nan), means.T)
    assert (tick_texts(ax.xaxis), tick_texts(ax.yaxis)) == (["cat", "dog"], ["p", "q", "r"])


def test_centred_similarity_is_symmetric_about_each_prompts_mean() -> None:
    means = np.array([[0.1, 0.2, 0.3], [0.2, 0.2, np.nan]])
    image = plots.similarity(means, ["cat", "dog"], ["p", "q", "r"], centred=True).axes[0].images[0]
    np.testing.assert_allclose(
        image.get_array().filled(np.nan), [[-0.05, 0.05], [0, 0], [0, np.nan]], atol=1e-15
    )
    assert image.get_clim() == pytest.approx((-0.05, 0.05))


def test_classes_are_sorted_and_the_mean_is_marked() -> None:
    ax = plots.classes(
        [0.2, np.nan, 0.9, 0.4], ["a", "b", "c", "d"], support=[10, 0, 2000, 5]
    ).axes[0]
    assert tick_texts(ax.yaxis) == ["c (2,000)", "d (5)", "a (10)"]
    assert ax.yaxis_inverted()  # best on top
    assert [bar.get_width() for bar in ax.patches] == [0.9, 0.4, 0.2]
    assert ax.lines[0].get_xdata()[0] == pytest.approx(0.5)
    assert (
        ax.get_title(loc="left") == "3 classes, mean F1 0.500 (dashed), 1 without images left out"
    )


def test_of_many_classes_the_best_and_the_worst_fifteen() -> None:
    names = [f"class_{i}" for i in range(100)]
    fig = plots.classes(np.arange(100) / 100, names)
    assert tick_texts(fig.axes[0].yaxis) == names[:-16:-1] + names[14::-1]
    assert "70 classes between" in texts(fig)
    assert len(plots.classes(np.arange(30) / 100, names[:30]).axes[0].patches) == 30


def test_grid_sorts_and_equal_accuracies_lie_along_a_line() -> None:
    C, tau = np.array([1.0, 100.0, 10.0, 0.1]), np.array([0.1, 1.0])
    accuracy = np.log10(C[:, None] / tau**2) / 10 + 0.2  # constant along C / tau^2
    ax = plots.grid(accuracy, C, tau).axes[0]
    assert tick_texts(ax.yaxis) == ["100", "10", "1", "0.1"]
    assert tick_texts(ax.xaxis) == ["1", "0.1"]
    shown = ax.images[0].get_array()
    np.testing.assert_allclose(shown, [[40, 60], [30, 50], [20, 40], [10, 30]])
    assert len(ax.lines) >= 4
    for line in ax.lines:
        x, y = line.get_data()
        assert np.ptp(40 + 20 * x - 10 * y) < 1e-9  # the plane through the cells
    assert not plots.grid(accuracy, C, tau, isolines=False).axes[0].lines


def test_spectrum_is_logarithmic_and_marks_the_effective_rank() -> None:
    fig = plots.spectrum({"generic32": [1, 100, 10, 0]}, {"generic32": 1.5})
    ax = fig.axes[0]
    assert ax.get_yscale() == "log"
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [100, 10, 1, np.nan])
    assert ax.lines[1].get_xydata()[0] == pytest.approx([1.5, 10**1.5])
    assert "generic32: effective rank 1.5" in texts(fig)


def test_contact_sheet_places_every_image_under_its_title(rng: np.random.Generator) -> None:
    images = rng.integers(0, 255, (5, 4, 8, 3), np.uint8)
    ax = plots.contact_sheet(images, list("abcde"), cols=2).axes[0]
    assert [t.get_text() for t in ax.texts] == list("abcde")
    for image, shown in zip(images, ax.images, strict=True):
        np.testing.assert_array_equal(shown.get_array(), image)
    lefts, tops = zip(
        *((shown.get_extent()[0], shown.get_extent()[3]) for shown in ax.images), strict=True
    )
    assert len(set(lefts)) == 2
    assert len(set(tops)) == 3
    assert all(text.get_position()[1] < top for text, top in zip(ax.texts, tops, strict=True))
