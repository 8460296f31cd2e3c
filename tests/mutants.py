"""Change the package in small ways, one at a time, and report the changes that no test notices.

`make mutants` records once which tests run which lines, in a copy of the repository, and draws
changes. For each it runs the fastest tests of the changed lines, until one fails.
"""

import argparse
import ast
import difflib
import importlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest
from forkserver import LIBRARIES, ONE_THREAD

ROOT = Path(__file__).parents[1]
COPY = ROOT / "build" / "mutants"
DATA, SECONDS = COPY / ".coverage", COPY / "seconds.tsv"
PACKAGES = ("features", "analysis", "base")
BUDGET = 60  # seconds of tests per change
LIMIT = 300  # seconds until a change counts as noticed, such as one that makes a loop endless
PRELOADED = (*LIBRARIES, "hypothesis", "pyarrow.parquet", "sklearn.linear_model", "typer.testing")
PAIRS = [
    (ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.In, ast.NotIn),
    (ast.Is, ast.IsNot), (ast.Add, ast.Sub), (ast.Mult, ast.Div), (ast.And, ast.Or),
    (ast.BitAnd, ast.BitOr), (ast.FloorDiv, ast.Mult), (ast.Mod, ast.Mult), (ast.Pow, ast.Mult),
]  # fmt: skip
SWAPS = {new: old for old, new in PAIRS} | dict(PAIRS)
UNCHANGED = {"annotation", "returns", "decorator_list"}
Change = tuple[range | None, ast.AST, str, object]  # lines, node, attribute, new value


def changes(node: ast.AST, lines: range | None = None) -> Iterator[Change]:
    """Yield the changes below a node. The lines are None if importing the module runs them."""
    for attribute, value in alternatives(node):
        yield lines, node, attribute, value
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    for name, content in ast.iter_fields(node):
        children = content if isinstance(content, list) else [content]
        for child in children if name not in UNCHANGED else []:
            inner = lines
            if isinstance(child, ast.stmt) and (lines or isinstance(node, ast.FunctionDef)):
                body = getattr(child, "body", None)
                end = body[0].lineno if body else child.end_lineno + 1
                inner = range(child.lineno, max(end, child.lineno + 1))
            if isinstance(child, ast.AST):
                yield from changes(child, inner)


def alternatives(node: ast.AST) -> Iterator[tuple[str, object]]:
    """Yield attributes of a node, with another value for each."""
    match node:
        case ast.Compare():
            yield "ops", [SWAPS[type(node.ops[0])](), *node.ops[1:]]
        case ast.BinOp(op=op) | ast.BoolOp(op=op) if type(op) in SWAPS:
            yield "op", SWAPS[type(op)]()
        case ast.Constant(value=bool()):
            yield "value", not node.value
        case ast.Constant(value=int() | float()):
            yield "value", node.value + 1
        case ast.Return(value=ast.expr()) if ast.unparse(node) != "return None":
            yield "value", ast.Constant(None)
        case ast.If() | ast.While() | ast.IfExp():
            yield "test", ast.UnaryOp(ast.Not(), node.test)
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise() | ast.Continue():
            yield "__class__", ast.Pass


def pytest_runtest_logstart(nodeid: str) -> None:
    """Record the lines of a test: in `record`, this module is a plugin of pytest."""
    if current := coverage.Coverage.current():
        current.switch_context(nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed and coverage.Coverage.current():
        with SECONDS.open("a", encoding="utf-8") as file:
            file.write(f"{report.duration:.2f}\t{report.nodeid}\n")


def record(environment: dict[str, str]) -> None:
    """Run `make test` in a copy, and keep the lines and the seconds of the tests that pass."""
    files = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    for name in files.strip("\0").split("\0"):
        (COPY / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, COPY / name)
    options = [f"--data-file={DATA}", "--source=clipkit", "--rcfile=/dev/null"]
    line = [sys.executable, "-m", "coverage", "run", *options, "-m", "pytest", "-p", "mutants"]
    subprocess.run([*line, "-m", "not exhaustive and not fuzz"], cwd=COPY, env=environment)


class Record:
    """Which tests run which lines, and for how many seconds."""

    def __init__(self) -> None:
        rows = [line.split("\t") for line in SECONDS.read_text(encoding="utf-8").splitlines()]
        self.seconds = {test: float(seconds) for seconds, test in rows}
        self.data = coverage.CoverageData(str(DATA))
        self.data.read()

    def tests(self, path: Path, lines: range | None) -> list[str]:
        """Return the fastest tests of lines, or of a module, as many as the budget allows.

        They keep their order, since a fixture of a module is made once.
        """
        by_line = self.data.contexts_by_lineno(str(path))
        contexts = [by_line[line] for line in by_line if lines is None or line in lines]
        tests = self.seconds.keys() & itertools.chain.from_iterable(contexts)
        ranked = sorted(tests, key=lambda test: (self.seconds[test], test))
        sums = itertools.accumulate(self.seconds[test] for test in ranked)
        chosen = {test for test, total in zip(ranked, sums, strict=True) if total < BUDGET}
        return [test for test in self.seconds if test in chosen]


def failing(tests: list[str]) -> str:
    """Return the first test that fails, in a child of this process, which has the libraries."""
    log = COPY / "log"
    pid = os.fork()
    if not pid:
        os.setsid()
        os.dup2(os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), 1)
        os.dup2(1, 2)
        preloaded = "ignore::pytest.PytestAssertRewriteWarning"
        options = ["-x", "-W", preloaded, "-p", "no:cacheprovider", f"--basetemp={COPY / 'tmp'}"]
        os._exit(pytest.main([*options, *tests]))
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            lines = log.read_text(errors="replace").splitlines() if status else []
            names = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
            return names[0] if names else "an error" * (status != 0)
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return f"no end within {LIMIT} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=100, help="number of changes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ |= ONE_THREAD | {"PYTHONPATH": f"{COPY}:{COPY / 'tests'}"}
    if not SECONDS.exists():
        record(dict(os.environ))
    sys.path[:0] = [str(COPY), str(COPY / "tests")]
    sys.dont_write_bytecode = True
    os.chdir(COPY)
    for name in PRELOADED:
        importlib.import_module(name)
    known, noticed = Record(), 0
    paths = sorted(path for name in PACKAGES for path in (COPY / "clipkit" / name).rglob("*.py"))
    trees = {path: ast.parse(path.read_bytes()) for path in paths}
    possible = [(path, *change) for path in paths for change in changes(trees[path])]
    drawn = random.Random(options.seed).sample(possible, options.sample)
    unchanged = next(filter(None, (known.tests(path, lines) for path, lines, *_ in drawn)))
    if failing(unchanged):
        sys.exit(f"the tests fail without a change: see {COPY / 'log'}")
    for number, (path, lines, node, attribute, value) in enumerate(drawn, 1):
        source, old = path.read_bytes(), ast.unparse(trees[path])
        kept = getattr(node, attribute)
        setattr(node, attribute, value)
        new = ast.unparse(ast.fix_missing_locations(trees[path]))
        setattr(node, attribute, kept)
        tests = known.tests(path, lines)
        path.write_text(new, encoding="utf-8")
        try:
            failed = failing(tests) if tests else ""
        finally:
            path.write_bytes(source)
        noticed += bool(failed)
        result = failed or f"NOT NOTICED by {len(tests)} tests"
        print(f"{path.relative_to(COPY)}:{lines[0] if lines else 1}: {result}")
        diff = difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm="")
        print(*list(diff)[3:], f"noticed: {noticed} of {number}", sep="\n", flush=True)


if __name__ == "__main__":
    main()
