"""Signals at random moments, disks that fill up at any byte, and inputs that are replaced."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from factories import contents
from forkserver import ForkServer
from fuzz import seeds
from fuzz.commands import FRAME, Runner, find_problem
from fuzz.content import Content

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SMALLEST_LIMIT = 600  # of a file's size: the message is in a file too
END_SECONDS = 30  # within seconds, on a busy machine
# The commands of each area; what they read is what `seeds.write_results` writes.
WRITING = """\
logits img.h5 generic32.h5 -o out.h5
logits img.h5 --random 40 -o out.h5
entropy generic32.logits.h5 -o out.h5
probe generic32.logits.h5 -t 1,0.1 -o out.h5
zeroshot classes.logits.h5 -o out.h5
cluster img.h5 -o out.h5
convert img.h5 out.npz
convert img.h5 out.parquet
convert img.h5 out.npy --split train
convert img.svm.h5 out.csv
plot confusion img.svm.h5 -o out.png
plot temperature generic32.logits.sweep.h5 -o out.svg
report . -o out.md
embed pictures -o out.h5
textembed generic32.txt -o out.h5
""".splitlines()
READING = """\
info {} --format json
entropy {}
zeroshot {}
cluster {}
probe {}
convert {} out.npz
convert {} out.parquet
textembed --classes {} -o out.h5
""".splitlines()
EARLIER = b"earlier"


class Signals:
    """Judges cases: each sends one or two signals to a real process at a random moment."""

    def __init__(self, server: ForkServer, folder: Path) -> None:
        self.runner = Runner(server, folder)
        self.folder = folder
        seeds.write_results(self.runner)
        self.out = folder / "signals"
        self.out.mkdir()
        self.seconds: dict[str, float] = {}

    def __call__(self, case: int) -> str:
        rng = random.Random(case)
        line = rng.choice(WRITING)
        words = self._words(line)
        output = Path(words[words.index("-o") + 1] if "-o" in words else words[2])
        if line not in self.seconds:
            began = time.monotonic()
            self._start(words).communicate()
            self.seconds[line] = time.monotonic() - began
        self._clear()
        if rng.random() < 0.5:
            output.write_bytes(EARLIER)
            words += ["--force"]
        numbers = rng.sample(SIGNALS, 1) * 2 if rng.random() < 0.3 else rng.sample(SIGNALS, 2)
        delays = [rng.uniform(0, self.seconds[line]), rng.choice((0, 0.01, rng.uniform(0, 0.5), 1))]
        count = rng.choice((1, 2))
        process = self._start(words)
        sent = []
        for number, delay in list(zip(numbers, delays, strict=True))[:count]:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(delay)
            if process.poll() is None:
                process.send_signal(number)
                sent.append(number)
        try:
            _, stderr = process.communicate(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return f"HANG: {line} {sent}"
        problem = self._find_problem(process.returncode, stderr, sent, output)
        return f"{problem}: {line} {sent} {delays} {stderr[-200:]!r}" if problem else "used"

    def _words(self, line: str) -> list[str]:
        model = ["--model", "tiny", "--precision", "fp32"]
        words = [re.sub(r"^out\.", f"{self.out}/out.", word) for word in line.split()]
        return words + model if words[0] in ("embed", "textembed") else words

    def _start(self, words: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "clipkit", *words],
            cwd=self.folder,
            env={**os.environ, "TMPDIR": str(self.folder / "tmp")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _clear(self) -> None:
        for path in self.out.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _find_problem(
        self, code: int, stderr: str, sent: list[signal.Signals], output: Path
    ) -> str:
        modules = {module for module, _ in FRAME.findall(stderr)}
        if "Traceback" in stderr and modules <= {"__init__", "__main__"}:
            return ""  # Python itself was still starting
        if "Traceback" in stderr:
            return "TRACEBACK"
        ends = {128 + number for number in sent} | {-number for number in sent} | {0}
        if code not in ends:
            return f"EXIT CODE {code}"
        if code == 0 and output.read_bytes() == EARLIER:
            return "SUCCESS WITHOUT OUTPUT"
        if code > 0 and stderr.count("interrupted by") != 1:
            return "NO MESSAGE"
        if code not in (0,) and any("clipkit" not in text for text in stderr.splitlines()):
            return "STRAY OUTPUT"
        files = contents(self.folder / "tmp").keys() | contents(self.out).keys()
        left = [name for name in files if name.endswith(".tmp") or name.startswith("clipkit-")]
        if left and code != -signal.SIGKILL:
            return f"LEFT BEHIND {left[0]}"
        return ""


class FullDisks:
    """Judges cases: each runs a command with a disk or a file size that ends at a random byte."""

    def __init__(self, server: ForkServer, folder: Path) -> None:
        self.runner = Runner(server, folder)
        self.folder = folder
        seeds.write_results(self.runner)
        self.expected: dict[str, dict[str, bytes]] = {}

    def __call__(self, case: int) -> str:
        rng = random.Random(case)
        line = rng.choice(WRITING)
        if line not in self.expected:
            self._clear()
            ended = self.runner.run(*line.split(), fake=True, shard=16)
            assert ended.exit_code == 0, ended.stderr
            self.expected[line] = self._outputs()
        self._clear()
        is_replaced = rng.random() < 0.5
        output = self.folder / next(iter(self.expected[line]))
        if is_replaced:
            output.write_bytes(EARLIER)
        words = [*line.split(), *(["--force"] if is_replaced else [])]
        size = max(map(len, self.expected[line].values()))
        limit = rng.randrange(SMALLEST_LIMIT, max(size, SMALLEST_LIMIT) + 100)
        ended, problem = self.runner.judge(
            *words, fake=True, shard=16, limits={"RLIMIT_FSIZE": limit}
        )
        outputs = self._outputs()
        earlier = {output.name: EARLIER} if is_replaced else {}
        expected = self.expected[line] if ended.exit_code == 0 else earlier
        if not problem and outputs != expected:
            problem = "OTHER OUTPUT"
        if not problem and ended.exit_code and "cannot write" not in ended.stderr:
            problem = "NOT CALLED A FULL DISK"
        return (
            f"{problem}: {line} at {limit} of {size} {ended.stderr[-200:]!r}" if problem else "used"
        )

    def _outputs(self) -> dict[str, bytes]:
        return {
            path.name: path.read_bytes() for path in self.folder.glob("out.*") if path.is_file()
        }

    def _clear(self) -> None:
        for path in self.folder.glob("out.*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


class ReplacedFiles:
    """Judges cases: each reads a file that a writer replaces all the time by one of two others."""

    def __init__(self, server: ForkServer, folder: Path) -> None:
        self.runner = Runner(server, folder)
        self.folder = folder
        seeds.write_results(self.runner)
        self.versions = [folder / "classes.logits.h5", folder / "other.h5"]
        other = Content.read(self.versions[0])
        for name in other.named("features", "labels", "ids"):
            if name.startswith("train/"):  # a far larger file
                other.datasets[name] = np.repeat(other.datasets[name], 50, axis=0)
        other.write(self.versions[1])
        self.path = folder / "changing.h5"
        self.expected = {line: self._results(line) for line in READING}

    def __call__(self, case: int) -> str:
        rng = random.Random(case)
        line = rng.choice(READING)
        with self._writer(rng.choice((0, 0, 0.001))):
            ended, problem = self.runner.judge(*line.format(self.path.name).split(), fake=True)
        if problem.startswith("LEFT BEHIND") or not problem:
            problem = find_problem(ended)
        if not problem and ended.exit_code:
            problem = "REFUSED"
        if not problem and self._result(ended.stdout) not in self.expected[line]:
            problem = "OTHER DATA"
        return f"{problem}: {line} {ended.stderr[:200]!r}" if problem else "used"

    def _results(self, line: str) -> list[str]:
        """Return the result of a command on each version."""
        results = []
        for version in self.versions:
            shutil.copy(version, self.path)
            ended = self.runner.run(*line.format(self.path.name).split(), fake=True)
            assert ended.exit_code == 0, ended.stderr
            results.append(self._result(ended.stdout))
        return results

    def _result(self, stdout: bytes) -> str:
        """Return a digest of what a command wrote, and remove its output."""
        sha = hashlib.sha256(stdout)
        for path in sorted(self.folder.glob("out.*")):
            sha.update(path.read_bytes())
            path.unlink()
        return sha.hexdigest()

    @contextlib.contextmanager
    def _writer(self, pause: float) -> Iterator[None]:
        ended = threading.Event()

        def replace() -> None:
            for version in itertools.cycle(self.versions):
                temporary = self.folder / "writing.h5"
                temporary.unlink(missing_ok=True)
                os.link(version, temporary)  # faster than a copy, so that a reader meets it
                temporary.replace(self.path)
                if ended.wait(pause):
                    return

        thread = threading.Thread(target=replace)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
