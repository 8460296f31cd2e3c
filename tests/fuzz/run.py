"""The long fuzz run: damaged feature files and prompt files, each read in a child process that may crash.

    python tests/fuzz/run.py --cases 24000

A reader must give the same data or a one-line error; a crash, a hang, another exception or other data is a finding.
A finding is told with its case number, and `--case` with `--what` runs that one again in this process.
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz import mutate, seeds

from clipkit import prompts
from clipkit.console import escaped
from clipkit.errors import ClipkitError
from clipkit.features import read

PATIENCE, MEMORY, BATCH = (
    20,
    4 << 30,
    400,
)  # seconds a case, bytes of address space, cases a process
PROMPTS = [
    b"a dot\na line\n\na circle\na dot\n",
    "\ufeffein Hund\r\n\r\nune \u00e9t\u00e9\r\n犬\u2028 a\n".encode(),
    b"# one\n" + "\n".join(f"a photo of {i}" for i in range(300)).encode(),
]


def feature_case(
    damage: Callable[[list[bytes], int], tuple[bytes, int]], folder: Path, trusted: bool
) -> Callable[[int], str]:
    """A judge of one damaged feature file; a trusted one is read in this process, its crash a finding."""
    originals = list(seeds.write_all(folder).values())
    healthy = [read(folder / f"{name}.h5") for name in seeds.files()]
    path = folder / "damaged.h5"

    def judge(case: int) -> str:
        data, _ = damage(originals, case)
        path.write_bytes(data)
        try:
            found = read(path, trusted=trusted)
        except ClipkitError as error:
            return one_line(error)
        return "same" if any(seeds.same(found, file) for file in healthy) else "OTHER DATA"

    return judge


def prompt_case(folder: Path) -> Callable[[int], str]:
    """A judge of one damaged prompt file, against the rules of the format written down anew."""

    def judge(case: int) -> str:
        data, _ = mutate.mutated(PROMPTS, case)
        try:
            found = prompts.parse(data, "mine.txt").texts
        except ClipkitError as error:
            return one_line(error)
        lines = [line.removesuffix(b"\r").decode() for line in data.split(b"\n")]
        return (
            "same"
            if found == [text for line in lines if (text := line.strip(prompts.STRIPPED))]
            else "OTHER DATA"
        )

    return judge


def one_line(error: ClipkitError) -> str:
    """`refused`, if the error is one short line for a terminal."""
    text = escaped(f"{error.message}{error.hint or ''}")
    text.encode()
    return "refused" if "\n" not in text and len(text) < 2000 and error.message else "LONG ERROR"


JUDGES: dict[str, Callable[[Path], Callable[[int], str]]] = {
    "damaged": lambda folder: feature_case(mutate.mutated, folder, True),
    "resigned": lambda folder: feature_case(mutate.resigned, folder, False),
    "prompts": prompt_case,
}


def in_child(judge: Callable[[int], str], cases: range, write: int) -> None:
    """Judge cases and tell of each, before and after; the alarm's default action ends a hang inside a library."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for case in cases:
        os.write(write, b"?")
        signal.alarm(PATIENCE)
        try:
            verdict = judge(case)
        except BaseException as error:
            verdict = f"{type(error).__name__.upper()} {error}".replace("\n", " ")[:300]
        os.write(write, f"{verdict}\n".encode())
    os._exit(0)


def sweep(what: str, cases: range, folder: Path) -> tuple[Counter[str], list[tuple[int, str]]]:
    """Judge all cases in children, a new one after each crash: the verdicts' counts, and the findings."""
    judge, counts, findings = JUDGES[what](folder), Counter[str](), []
    at = cases.start
    while at < cases.stop:
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.close(read)
            in_child(judge, range(at, min(at + BATCH, cases.stop)), write)
        os.close(write)
        with os.fdopen(read, "rb") as told:
            verdicts = told.read().decode(errors="replace").split("\n")
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            verdicts[-1] = f"?{signal.Signals(os.WTERMSIG(status)).name}"
        for verdict in (verdict.removeprefix("?") for verdict in verdicts if verdict):
            kind = (
                verdict.partition(" ")[0]
                if verdict not in ("OTHER DATA", "LONG ERROR")
                else verdict
            )
            counts[kind] += 1
            if kind not in ("same", "refused"):
                findings.append((at, verdict))
            at += 1
    return counts, findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cases",
        type=int,
        default=24_000,
        help="of each of damaged files and prompts; resigned: a third",
    )
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--what", choices=JUDGES, action="append")
    parser.add_argument("--case", type=int, help="run this one in this process")
    given = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory(prefix="clipkit-fuzz-") as folder:
        for what in given.what or JUDGES:
            if given.case is not None:
                print(what, given.case, JUDGES[what](Path(folder))(given.case))
                continue
            count = given.cases // 3 if what == "resigned" else given.cases
            counts, findings = sweep(what, range(given.start, given.start + count), Path(folder))
            print(
                f"{what}: {counts.total()} cases:",
                ", ".join(f"{n} {kind}" for kind, n in counts.most_common()),
                flush=True,
            )
            for case, verdict in findings[:20]:
                print(f"  case {case}: {verdict}")
            bad += len(findings)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
