"""Change the package in small ways, one at a time, and report the changes that no test notices.

`make mutants` records once which tests run which lines, in a copy of the repository, and draws
changes. For each it runs tests of the changed lines until one fails: first the short ones that run
few lines, then, for the changes that are left, more. A later run begins with what is left.
"""

import argparse
import ast
import contextlib
import importlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import coverage
import pytest
from forkserver import LIBRARIES, ONE_THREAD

ROOT = Path(__file__).parents[1]
COPY = ROOT / "build" / "mutants"
DATA, SECONDS, NOTICED = COPY / ".coverage", COPY / "seconds.tsv", COPY / "noticed.tsv"
PACKAGES = ("features", "analysis", "probes", "statistics", "base")
BUDGETS = (15, 60)  # seconds of tests per change, in the first and in the second round
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


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[object], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Record the lines of a fixture apart from those of the first test that it is made for."""
    current = coverage.Coverage.current()
    if current and fixturedef.scope != "function":
        current.switch_context(f"{fixturedef.baseid}\t{fixturedef.argname}")
    try:
        return (yield)
    finally:
        if current:
            current.switch_context(os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0])


def pytest_runtest_setup(item: pytest.Item) -> None:
    fixtures = getattr(item, "fixturenames", ())
    item.user_properties.append(("fixtures", " ".join(fixtures)))
    if coverage.Coverage.current() and "fork_server" in fixtures:
        pytest.skip("other processes run its lines")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    current = coverage.Coverage.current()
    if report.when == "call" and report.passed and current:
        fixtures = dict(report.user_properties)["fixtures"]
        seconds = Path(current.get_option("run:data_file")).with_name(SECONDS.name)
        with seconds.open("a", encoding="utf-8") as file:
            file.write(f"{report.duration:.2f}\t{report.nodeid}\t{fixtures}\n")


def record(environment: dict[str, str]) -> None:
    """Run `make test` in a copy, and keep the lines and the seconds of the tests that pass."""
    files = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True)
    for name in files.strip("\0").split("\0"):
        (COPY / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, COPY / name)
    source = ",".join(f"clipkit.{name}" for name in PACKAGES)
    options = [f"--data-file={DATA}", f"--source={source}", "--rcfile=/dev/null"]
    line = [sys.executable, "-m", "coverage", "run", *options, "-m", "pytest", "-p", "mutants"]
    subprocess.run([*line, "-m", "not exhaustive and not fuzz"], cwd=COPY, env=environment)


class Record:
    """Which tests run which lines, themselves or by a fixture, and for how many seconds."""

    def __init__(self) -> None:
        rows = [line.split("\t") for line in SECONDS.read_text(encoding="utf-8").splitlines()]
        self.seconds = {test: float(seconds) for seconds, test, _ in rows}
        self.data = coverage.CoverageData(str(DATA))
        self.data.read()
        lines = Counter[str]()
        for path in self.data.measured_files():
            lines.update(itertools.chain(*self.data.contexts_by_lineno(path).values()))
        shared = [tuple(name.split("\t")) for name in lines if "\t" in name]
        self.contexts, self.cost = {}, {}
        for seconds, test, fixtures in rows:
            own = [place for place in shared if place[1] in fixtures.split(" ")]
            names = ["\t".join(place) for place in own if test.startswith(place[0])]
            self.contexts[test] = {test, *names}
            self.cost[test] = (float(seconds) + 0.01) * sum(lines[name] for name in [test, *names])

    def tests(self, path: Path, lines: range | None, budget: float) -> set[str]:
        """Return tests of lines, or of a module, that take less than a budget of seconds.

        Tests that are short in both ways, in seconds and in lines, come first.
        """
        by_line = self.data.contexts_by_lineno(str(path))
        contexts = [by_line[line] for line in by_line if lines is None or line in lines]
        running = set(itertools.chain.from_iterable(contexts))
        tests = [test for test in self.seconds if running & self.contexts[test]]
        tests.sort(key=lambda test: self.cost[test])
        sums = itertools.accumulate(self.seconds[test] for test in tests)
        return {test for test, total in zip(tests, sums, strict=True) if total < budget}


def failing(tests: list[str]) -> str:
    """Return the first test that fails, in a child of this process, which has the libraries."""
    log = COPY / "log"
    pid = os.fork()
    if not pid:
        os.setsid()
        signal.alarm(LIMIT)
        os.dup2(os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), 1)
        os.dup2(1, 2)
        preloaded = "ignore::pytest.PytestAssertRewriteWarning"
        options = ["-x", "-W", preloaded, "-p", "no:cacheprovider", f"--basetemp={COPY / 'tmp'}"]
        os._exit(pytest.main([*options, *tests]))
    try:
        _, status = os.waitpid(pid, 0)
    finally:
        with contextlib.suppress(ProcessLookupError):  # of a group that has ended
            os.killpg(pid, signal.SIGKILL)
    lines = log.read_text(errors="replace").splitlines() if status else []
    names = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return names[0] if names else "an error or no end" * (status != 0)


class Mutant(NamedTuple):
    path: Path
    lines: range | None
    text: str  # of the changed module
    name: str  # the place, the old and the new text


def mutant(tree: ast.Module, path: Path, lines: range | None, *change: Any) -> Mutant:
    node, attribute, value = change
    old, kept = ast.unparse(node), getattr(node, attribute)
    setattr(node, attribute, value)
    new, text = ast.unparse(node), ast.unparse(ast.fix_missing_locations(tree))
    setattr(node, attribute, kept)
    place = f"{path.relative_to(COPY)}:{node.lineno}:{node.col_offset}"
    name = f"{place}: {old.splitlines()[0]} -> {new.splitlines()[0]}"
    return Mutant(path, lines, text, name)


def noticing(change: Mutant, tests: list[str]) -> str:
    """Return the first of the tests that fails with a change."""
    source = change.path.read_bytes()
    change.path.write_text(change.text, encoding="utf-8")
    try:
        return failing(tests) if tests else ""
    finally:
        change.path.write_bytes(source)


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
    known = Record()
    if failed := failing(list(known.seconds)[:20]):
        sys.exit(f"without a change: {failed}")
    paths = sorted(path for name in PACKAGES for path in (COPY / "clipkit" / name).rglob("*.py"))
    trees = {path: ast.parse(path.read_bytes()) for path in paths}
    possible = [(path, *change) for path in paths for change in changes(trees[path])]
    drawn = random.Random(options.seed).sample(possible, options.sample)
    mutants = [mutant(trees[path], path, *change) for path, *change in drawn]
    NOTICED.touch()
    left = [each for each in mutants if each.name not in NOTICED.read_text(encoding="utf-8")]
    for budget, earlier in zip(BUDGETS, (0, *BUDGETS), strict=False):
        for each in left.copy():
            tests = known.tests(each.path, each.lines, budget)
            tests -= known.tests(each.path, each.lines, earlier)
            # in the order of the record, a fixture of a module is made once
            if failed := noticing(each, [test for test in known.seconds if test in tests]):
                left.remove(each)
                with NOTICED.open("a", encoding="utf-8") as file:
                    file.write(f"{each.name}\t{failed}\n")
            result = failed or f"NOT NOTICED by {len(tests)} tests"
            print(f"{each.name}: {result}", f"left: {len(left)}", sep="\n", flush=True)
    print("", *(each.name for each in left), sep="\n")
    print(f"noticed: {len(drawn) - len(left)} of {len(drawn)}")


if __name__ == "__main__":
    main()
