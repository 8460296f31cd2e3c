"""The long fuzz run: damaged and changed inputs, signals, full disks and replaced files.

    python tests/fuzz/run.py

Each area judges numbered cases. A case must give the right data or a one-line error. A crash, a
hang, a traceback, too much memory, other data or an unreadable output is a finding. It is printed
with its case number; `--case` with `--what` runs it again and shows every command line.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import resource
import shlex
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from forkserver import ForkServer, Outcome
from fuzz import mutate, seeds
from fuzz.faults import FullDisks, ReplacedFiles, Signals
from fuzz.feature_files import FeatureFiles
from fuzz.foreign_files import ForeignFiles
from fuzz.model_folders import ModelFolders

from clipkit.base.console import escaped
from clipkit.base.errors import ClipkitError
from clipkit.features import read
from clipkit.prompts import texts as prompts

MEMORY_BYTES = 4 << 30  # of address space
CASES_PER_SEED = 1_000_000
CASES_PER_PROCESS = 400
PROMPTS = [
    b"a dot\na line\n\na circle\na dot\n",
    "\ufeffein Hund\r\n\r\nune \u00e9t\u00e9\r\n犬\u2028 a\n".encode(),
    b"# one\n" + "\n".join(f"a photo of {i}" for i in range(300)).encode(),
]
PASSED = {"same", "refused", "used", "impossible"}  # impossible: HDF5 cannot hold the change

Judge = Callable[[int], str]


def judge_feature_files(folder: Path) -> Judge:
    """Return a judge of damaged feature files, whose checksums show the damage."""
    originals = list(seeds.write_all(folder).values())
    valid = [read(folder / f"{name}.h5") for name in seeds.files()]
    path = folder / "damaged.h5"

    def judge(case: int) -> str:
        path.write_bytes(mutate.damaged(originals, case))
        try:
            result = read(path)
        except ClipkitError as error:
            return judge_error(error)
        return "same" if any(seeds.same(result, file) for file in valid) else "OTHER DATA"

    return judge


def judge_prompt_files(folder: Path) -> Judge:
    """Return a judge of damaged prompt files, which has the rules of the format written anew."""

    def judge(case: int) -> str:
        data = mutate.damaged(PROMPTS, case)
        try:
            texts = prompts.parse(data, "mine.txt").texts
        except ClipkitError as error:
            return judge_error(error)
        lines = [line.removesuffix(b"\r").decode() for line in data.split(b"\n")]
        expected = [line.strip(prompts.STRIPPED) for line in lines]
        return "same" if texts == [text for text in expected if text] else "OTHER DATA"

    return judge


def judge_error(error: ClipkitError) -> str:
    """Return `refused` for one short line that a terminal can show."""
    text = escaped(f"{error.message}{error.hint or ''}")
    text.encode()
    is_line = bool(error.message) and "\n" not in text and len(text) < 2000
    return "refused" if is_line else "LONG ERROR"


@dataclass(frozen=True)
class Area:
    """A kind of cases: `prepare` makes a judge that works in a folder."""

    prepare: Callable[[ForkServer, Path], Judge]
    cases: int
    seconds: int = 20  # for a case, after which the process that judges it ends
    memory: int | None = MEMORY_BYTES


AREAS = {
    "damaged": Area(lambda _, folder: judge_feature_files(folder), 24_000),
    "prompts": Area(lambda _, folder: judge_prompt_files(folder), 24_000),
    "features": Area(FeatureFiles, 3000, 600, None),
    "foreign": Area(ForeignFiles, 1000, 600, None),
    "models": Area(ModelFolders, 500, 600, None),
    "signals": Area(Signals, 300, 600, None),
    "full-disks": Area(FullDisks, 500, 600, None),
    "replaced": Area(ReplacedFiles, 300, 600, None),
}


def judge_in_child(area: Area, judge: Judge, cases: range, write: int) -> None:
    """Judge cases and write a mark before each and a verdict after it.

    The alarm's default action ends a hang inside a library.
    """
    if area.memory is not None:
        resource.setrlimit(resource.RLIMIT_AS, (area.memory, area.memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for case in cases:
        os.write(write, b"?")
        signal.alarm(area.seconds)
        try:
            verdict = judge(case)
        except BaseException as error:
            verdict = f"{type(error).__name__.upper()} {error}"
        os.write(write, f"{escaped(verdict)[:400]}\n".encode(errors="replace"))
    os._exit(0)


def sweep(area: Area, judge: Judge, cases: range) -> Iterator[tuple[int, str]]:
    """Judge cases in child processes, with a new one after each crash; yield the verdicts."""
    case = cases.start
    while case < cases.stop:
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.close(read)
            judge_in_child(
                area, judge, range(case, min(case + CASES_PER_PROCESS, cases.stop)), write
            )
        os.close(write)
        with os.fdopen(read, "r", errors="replace") as pipe:
            for line in pipe:
                line = line.removeprefix("?").rstrip("\n")
                if line:
                    yield case, line
                    case += 1
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            yield case, signal.Signals(os.WTERMSIG(status)).name
            case += 1


def judge_part(what: str, cases: range) -> Counter[str]:
    """Judge some cases of an area; print findings, each kind once, and count verdicts by kind."""
    counts: Counter[str] = Counter()
    with prepared(what) as judge:
        for case, verdict in sweep(AREAS[what], judge, cases):
            kind = verdict if verdict in PASSED else f"FINDING {verdict.partition(': ')[0]}"
            if kind not in PASSED and not counts[kind]:
                print(f"{what} case {case}: {verdict}", flush=True)
            counts[kind] += 1
    return counts


@contextlib.contextmanager
def prepared(what: str, folder: Path | None = None) -> Iterator[Judge]:
    """Yield the judge of an area with a fork server and a folder, by default a temporary one."""
    with tempfile.TemporaryDirectory(prefix="clipkit-fuzz-") as temporary:
        server = ForkServer(Path(temporary))
        folder = folder or Path(temporary) / "work"
        folder.mkdir(parents=True)
        try:
            yield AREAS[what].prepare(server, folder)
        finally:
            server.close()


def show_case(what: str, case: int, folder: Path | None) -> str:
    """Judge one case in this process, and print each command line and how it ended."""

    def show(words: tuple[object, ...], ended: Outcome) -> None:
        print(f"$ clipkit {shlex.join(map(str, words))}\n{ended.stderr}exit code {ended.exit_code}")

    with prepared(what, folder) as judge:
        if hasattr(judge, "runner"):
            judge.runner.log = show
        verdict = judge(case)
        print(verdict)
        return verdict


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", choices=AREAS, action="append", help="areas (default: all)")
    parser.add_argument("--cases", type=int, help="of each area (default: its own number)")
    parser.add_argument("--seed", type=int, default=0, help=f"times {CASES_PER_SEED:,}: first case")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes that judge")
    parser.add_argument("--case", type=int, help="run this case alone and show its commands")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="with --case: keep its files")
    options = parser.parse_args()
    if options.case is not None:
        return int(show_case(options.what[0], options.case, options.keep) not in PASSED)
    has_findings = False
    first = options.seed * CASES_PER_SEED
    with ProcessPoolExecutor(options.jobs) as pool:
        for what in options.what or AREAS:
            count = options.cases or AREAS[what].cases
            starts = [first + count * job // options.jobs for job in range(options.jobs + 1)]
            parts = [range(start, stop) for start, stop in itertools.pairwise(starts)]
            counts = sum(pool.map(judge_part, [what] * len(parts), parts), Counter())
            listed = ", ".join(f"{n} {kind}" for kind, n in counts.most_common())
            print(f"{what}: {counts.total()} cases from {first}: {listed}", flush=True)
            has_findings = has_findings or not PASSED.issuperset(counts)
    return int(has_findings)


if __name__ == "__main__":
    sys.exit(main())
