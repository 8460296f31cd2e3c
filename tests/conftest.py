"""Shared fixtures: small models, the feature files that commands make with them, real data."""

from __future__ import annotations

import gc
import itertools
import operator
import os
import shutil
import signal
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from factories.clips import tiny_clip_dir, vit_b32_dir
from forkserver import BRIEF, ForkServer
from hypothesis import settings
from joblib import cpu_count
from shell import Make, environment, ok

__all__ = ["tiny_clip_dir", "vit_b32_dir"]  # fixtures

ROOT = Path(__file__).parents[1]
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
ADJECTIVES = "round straight thin dark bright open closed tall slanted curved small wide"
# fixtures that start processes or write many models
LONG_FIXTURES = {"browser", "dual", "fork_server", "make", "zoo"}
# fixtures that take more than ten seconds
EXHAUSTIVE_FIXTURES = {"thesis_results", "vit_b32_dir"}
Tiers = dict[str, list[str]]
TIERS = pytest.StashKey[Tiers]()

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a background job of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("clipkit", deadline=None)  # a busy machine is slow
settings.load_profile("clipkit")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while tests are imported, which took half of the time, and later less."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000)
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark cases `long` and `exhaustive`, and keep the tiers of all, also of those left out.

    A test of a long fixture is long, and that of an exhaustive one is exhaustive. Of a test with
    several long cases, `make test` runs the first. Of a test with several other cases,
    `make test-quick` runs the first.
    """
    tests = defaultdict(list)
    for item in items:
        tests[item.nodeid.partition("[")[0]].append(item)
        fixtures = getattr(item, "fixturenames", ())
        if LONG_FIXTURES.intersection(fixtures):
            item.add_marker("long")
        if EXHAUSTIVE_FIXTURES.intersection(fixtures):
            item.add_marker("exhaustive")
    for cases in tests.values():
        if cases[0].get_closest_marker("whole"):
            continue
        is_long = [case.get_closest_marker("long") is not None for case in cases]
        for case in itertools.islice(itertools.compress(cases, is_long), 1, None):
            case.add_marker("exhaustive")
        others = itertools.compress(cases, map(operator.not_, is_long))
        for case in itertools.islice(others, 1, None):
            case.add_marker("long")
    config.stash[TIERS] = {name: [tier_of(case) for case in tests[name]] for name in tests}


def tier_of(case: pytest.Item) -> str:
    """Return the first target of make that runs a case."""
    for marker, target in (("fuzz", "fuzz"), ("exhaustive", "test-all"), ("long", "test")):
        if case.get_closest_marker(marker):
            return target
    return "test-quick"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return one worker per core, and per 3 GB of memory, which a worker and its commands take."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    of_container = Path("/sys/fs/cgroup/memory.max")
    if of_container.exists() and of_container.read_text().strip().isdigit():
        memory = min(memory, int(of_container.read_text()))
    return max(1, min(cpu_count(), memory // 3_000_000_000))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say at the end what was not tested, and why."""
    reasons = Counter(report.longrepr[2] for report in terminalreporter.stats.get("skipped", ()))
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"{count} skipped: {reason.removeprefix('Skipped: ')}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Give each worker and its processes one thread: more would take turns on the same cores."""
    os.environ.update(ONE_THREAD)


@pytest.fixture(autouse=True, scope="session")
def no_sync() -> Iterator[None]:
    """Wait for no disk: tests that kill commands do so in processes of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def folder_of(variable: str, content: str) -> Path:
    """Return the folder that an environment variable names, or skip the test."""
    if variable not in os.environ:
        pytest.skip(f"{variable} is not set; it names a folder with {content}")
    return Path(os.environ[variable])


@pytest.fixture(scope="session")
def cifar10_root() -> Path:
    """CIFAR-10 as image files: train/<class>/NNNN.jpg and test/<class>/NNNN.jpg."""
    return folder_of("CLIPKIT_CIFAR10", "train/ and test/ of class folders")


@pytest.fixture(scope="session")
def real_features() -> Path:
    """A folder of .npz files with features of published models."""
    return folder_of("CLIPKIT_REAL_FEATURES", ".npz files of features")


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    """Start many short clipkits in no time."""
    # a socket's path has at most 107 bytes, and pytest's folders may be longer
    with tempfile.TemporaryDirectory(prefix="clipkit-tests-") as folder:
        server = ForkServer(Path(folder))
        yield server
        server.close()


@pytest.fixture(scope="session")
def make(fork_server: ForkServer, tiny_clip_dir: Path) -> Make:
    """Run make; by default on digits with a small random CLIP, two seeds and three prompt sets."""
    defaults = {
        "DATASET": "digits",
        "MODEL": tiny_clip_dir,
        "LIMIT": 60,
        "PRECISION": "fp32",
        "UNTRAINED": "",
        "SEEDS": "42 1",
        "SETS": "generic16 generic32 generic415",
        "VENV": fork_server.venv,
        "INSTALLED": fork_server.venv / ".installed",
    }

    def run(
        *words: object, out: Path, check: bool = True, **variables: object
    ) -> subprocess.CompletedProcess[str]:
        if "-n" not in words:
            fork_server.launch()
        settings = {**defaults, "RESULTS": out, **variables}
        settings = {name: value for name, value in settings.items() if value is not None}
        line = ["make", *map(str, words), *(f"{name}={value}" for name, value in settings.items())]
        env = {**environment(), BRIEF: "yes"}
        done = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def thesis_results(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of all chapters, and beside them a control's of chapters 2 and 3."""
    out = tmp_path_factory.mktemp("results")
    make("chapter2", "chapter3", "-j2", out=out, UNTRAINED=7)
    make("thesis", "-j2", out=out)
    return out / "tiny-clip-digits"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window. A module ends it: with its event loop, asyncio does not run."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Open a page from disk; it must write nothing to the console and request nothing."""
    contexts, complaints = [], []

    def open_file(path: Path, width: int = 1600, **settings: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: complaints.append(request.url[:99]) or None)
        page.goto(path.as_uri())
        return page

    yield open_file
    for context in contexts:
        context.close()
    strange = [text for text in complaints if not text.startswith(("file:", "data:"))]
    assert not strange


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the files of the fixtures below."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="session")
def model_options(tiny_clip_dir: Path) -> list[object]:
    """The options of the model that the fixtures below use."""
    return ["--model", tiny_clip_dir, "--precision", "fp32"]


@pytest.fixture(scope="session")
def img_h5(work: Path, model_options: list[object]) -> Path:
    """Embeddings of 120 + 120 handwritten digits from a small random CLIP."""
    ok("embed", "digits", "--limit", 120, *model_options, "-o", work / "img.h5")
    return work / "img.h5"


@pytest.fixture(scope="session")
def txt_h5(work: Path, model_options: list[object]) -> Path:
    """Embeddings of twelve prompts."""
    prompts = "".join(f"something {word}\n" for word in ADJECTIVES.split())
    ok("textembed", *model_options, "-o", work / "txt.h5", stdin=prompts.encode())
    return work / "txt.h5"


@pytest.fixture(scope="session")
def logits_h5(work: Path, img_h5: Path, txt_h5: Path) -> Path:
    """Cosines of the digits with the prompts."""
    ok("logits", img_h5, txt_h5, "-o", work / "logits.h5")
    return work / "logits.h5"


@pytest.fixture(scope="session")
def class_logits_h5(work: Path, img_h5: Path, model_options: list[object]) -> Path:
    """Cosines of the digits with one prompt per class."""
    ok("textembed", "--classes", img_h5, *model_options, "-o", work / "classes.h5")
    ok("logits", img_h5, work / "classes.h5", "-o", work / "class-logits.h5")
    return work / "class-logits.h5"
