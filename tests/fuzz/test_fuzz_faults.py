"""Signals at random moments, and disks that fill up at any byte."""

import re
import signal

import pytest
from forkserver import BRIEF
from fuzz import seeds
from fuzz.commands import Runner, cases, find_problem

pytestmark = [pytest.mark.long, pytest.mark.exhaustive]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SMALLEST_LIMIT = 600  # of a file's size: the message is in a file too
END_SECONDS = 30  # within seconds, on a busy machine
EARLIER = b"earlier"
# what they read is what `seeds.write_results` writes
LINES = """\
logits img.h5 generic32.h5 -o out.h5
entropy generic32.logits.h5 -o out.h5
probe generic32.logits.h5 -t 1,0.1 -o out.h5
zeroshot classes.logits.h5 -o out.h5
cluster img.h5 -o out.h5
convert img.h5 out.npz
convert img.h5 out.parquet
convert img.svm.h5 out.csv
plot confusion img.svm.h5 -o out.png
report . -o out.md
embed pictures -o out.h5
textembed generic32.txt -o out.h5
""".splitlines()


@pytest.fixture(scope="module")
def runner(fork_server, tmp_path_factory):
    runner = Runner(fork_server, tmp_path_factory.mktemp("faults"))
    seeds.write_results(runner)
    return runner


def outputs(folder):
    return {path.name: path.read_bytes() for path in folder.glob("out.*") if path.is_file()}


@pytest.fixture(scope="module")
def expected(runner):
    """What each line writes."""
    written = {}
    for line in LINES:
        runner.clear()
        ended = runner.run(*line.split(), shard=16)
        assert ended.exit_code == 0, ended.stderr
        written[line] = outputs(runner.folder)
    return written


def words_of(rng, line, output):
    """Return the words of a line, which sometimes replaces an earlier output."""
    words = line.split()
    if rng.random() < 0.5:
        output.write_bytes(EARLIER)
        words.append("--force")
    return words


@cases(12)
def test_a_signal_leaves_the_earlier_output_or_a_whole_one(rng, runner, expected):
    runner.clear()
    line = rng.choice(LINES)
    name = next(iter(expected[line]))
    words = words_of(rng, line, runner.folder / name)
    earlier = outputs(runner.folder)
    number = rng.choice(SIGNALS)
    env = {"TMPDIR": str(runner.folder / "tmp"), BRIEF: "yes"}
    options = {"fake": True, "shard": 16, "kill": number, "env": env}
    ended = runner.server.run(runner.folder, *words, seconds=rng.random() / 2, **options)
    assert ended.seconds < END_SECONDS
    assert ended.exit_code in (0, 128 + number)
    if ended.exit_code:
        assert ended.stderr.count("interrupted by") == 1
        assert outputs(runner.folder) in (earlier, expected[line])
    else:
        assert not find_problem(ended)
        assert outputs(runner.folder) == expected[line]
    assert not list((runner.folder / "tmp").iterdir())
    assert not list(runner.folder.glob(".out*"))


@cases(15)
def test_a_full_disk_leaves_the_earlier_output_or_a_whole_one(rng, runner, expected):
    runner.clear()
    line = rng.choice(LINES)
    words = words_of(rng, line, runner.folder / next(iter(expected[line])))
    earlier = outputs(runner.folder)
    size = max(map(len, expected[line].values()))
    limit = rng.randrange(SMALLEST_LIMIT, max(size, SMALLEST_LIMIT) + 100)
    ended, problem = runner.judge(*words, shard=16, limits={"RLIMIT_FSIZE": limit})
    assert not problem
    if ended.exit_code:
        assert re.search("cannot write", ended.stderr)
        assert outputs(runner.folder) == earlier
    else:
        assert outputs(runner.folder) == expected[line]
