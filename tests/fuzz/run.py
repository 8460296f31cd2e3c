"""The long fuzz run: read damaged feature files and prompt files in child processes.

    python tests/fuzz/run.py --cases 24000

A reader must give the same data or a one-line error. A crash, a hang, another exception or other
data is a finding. It is printed with its case number; `--case` with `--what` runs it again.
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

CASE_SECONDS = 20
MEMORY_BYTES = 4 << 30  # of address space
CASES_PER_PROCESS = 400
PROMPTS = [
    b"a dot\na line\n\na circle\na dot\n",
    "\ufeffein Hund\r\n\r\nune \u00e9t\u00e9\r\n犬\u2028 a\n".encode(),
    b"# one\n" + "\n".join(f"a photo of {i}" for i in range(300)).encode(),
]


def judge_feature_files(
    damage: Callable[[list[bytes], int], bytes], folder: Path, trusted: bool
) -> Callable[[int], str]:
    """Return a judge of damaged feature files; a crash on a trusted one is a finding."""
    originals = list(seeds.write_all(folder).values())
    valid = [read(folder / f"{name}.h5") for name in seeds.files()]
    path = folder / "damaged.h5"

    def judge(case: int) -> str:
        path.write_bytes(damage(originals, case))
        try:
            result = read(path, trusted=trusted)
        except ClipkitError as error:
            return judge_error(error)
        return "same" if any(seeds.same(result, file) for file in valid) else "OTHER DATA"

    return judge


def judge_prompt_files(folder: Path) -> Callable[[int], str]:
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


JUDGES: dict[str, Callable[[Path], Callable[[int], str]]] = {
    "damaged": lambda folder: judge_feature_files(mutate.damaged, folder, trusted=True),
    "fixed-checksums": lambda folder: judge_feature_files(
        mutate.damaged_with_fixed_checksums, folder, trusted=False
    ),
    "prompts": judge_prompt_files,
}


def judge_in_child(judge: Callable[[int], str], cases: range, write: int) -> None:
    """Judge cases and write a mark before each and a verdict after it.

    The alarm's default action ends a hang inside a library.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for case in cases:
        os.write(write, b"?")
        signal.alarm(CASE_SECONDS)
        try:
            verdict = judge(case)
        except BaseException as error:
            verdict = f"{type(error).__name__.upper()} {error}".replace("\n", " ")[:300]
        os.write(write, f"{verdict}\n".encode())
    os._exit(0)


def sweep(what: str, count: int, folder: Path) -> tuple[Counter[str], list[tuple[int, str]]]:
    """Judge cases in child processes, with a new one after each crash.

    Return the number of cases by verdict, and the cases that are findings with their verdicts.
    """
    judge = JUDGES[what](folder)
    counts: Counter[str] = Counter()
    findings = []
    case = 0
    while case < count:
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.close(read)
            judge_in_child(judge, range(case, min(case + CASES_PER_PROCESS, count)), write)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            verdicts = pipe.read().decode(errors="replace").split("\n")
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            verdicts[-1] = f"?{signal.Signals(os.WTERMSIG(status)).name}"
        for verdict in filter(None, verdicts):
            verdict = verdict.removeprefix("?")
            counts[verdict.partition(":")[0][:40]] += 1
            if verdict not in ("same", "refused"):
                findings.append((case, verdict))
            case += 1
    return counts, findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    cases_help = "of damaged files and of prompts, each; a third as many with fixed checksums"
    parser.add_argument("--cases", type=int, default=24_000, help=cases_help)
    parser.add_argument("--what", choices=JUDGES, action="append")
    parser.add_argument("--case", type=int, help="run this case in this process")
    options = parser.parse_args()
    number_of_findings = 0
    with tempfile.TemporaryDirectory(prefix="clipkit-fuzz-") as folder:
        for what in options.what or JUDGES:
            if options.case is not None:
                print(what, options.case, JUDGES[what](Path(folder))(options.case))
                continue
            count = options.cases // 3 if what == "fixed-checksums" else options.cases
            counts, findings = sweep(what, count, Path(folder))
            verdicts = ", ".join(f"{n} {verdict}" for verdict, n in counts.most_common())
            print(f"{what}: {counts.total()} cases: {verdicts}", flush=True)
            for case, verdict in findings[:20]:
                print(f"  case {case}: {verdict}")
            number_of_findings += len(findings)
    return 1 if number_of_findings else 0


if __name__ == "__main__":
    sys.exit(main())
