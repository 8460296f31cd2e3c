"""One's own encoders that are drawn: right rows or one line, and no other word in a file."""

import re
import shutil
import time

import numpy as np
import pytest
from factories import messages
from fuzz import own_encoders
from fuzz.commands import Runner, cases
from hypothesis import note

from clipkit.features import read

pytestmark = [pytest.mark.long, pytest.mark.exhaustive]

PRINTED = "PRINTED"  # is in all that an encoder prints
TOLERANCE = 0.02  # of a row's length: numbers of 8 bits
OURS = re.compile("clipkit[ :]")
FORBIDDEN = ("Traceback", "bug in clipkit", "Fatal Python error", "Exception ignored")


@pytest.fixture(scope="module")
def runner(fork_server, tmp_path_factory):
    return Runner(fork_server, tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def means(runner):
    return own_encoders.write_folder(runner.folder)


@cases(40)
def test_a_drawn_encoder_gives_the_right_rows_or_one_line(rng, runner, means):
    tricks = own_encoders.draw(rng)
    note("\n".join(trick.code for trick in tricks))
    output = "-" if rng.random() < 0.5 else "out.h5"
    judge(runner, means, tricks, rng.choice((1, 3, 4)), output)


def judge(runner, means, tricks, batch_size, output):
    """Run `embed` with an encoder of some tricks, and check its end, its messages and its rows."""
    code, end = own_encoders.code_of(tricks), own_encoders.end_of(tricks)
    (runner.folder / "own.py").write_bytes(code.encode("utf-8", "surrogatepass"))
    shutil.rmtree(runner.folder / "__pycache__", ignore_errors=True)  # one of the same second
    before = names_of(runner)
    words = ("embed", "pictures", "-m", "python:own.py:make", "--restart")
    stdout = runner.folder / "stdout"
    ended = runner.run(*words, "-b", batch_size, "-o", output, fake=False, stdout=stdout)
    if "sleep 0.4" in code or "Timer" in code:
        time.sleep(0.5)  # it prints after the end
    written = runner.folder / "out.h5"
    if output == "-" and stdout.stat().st_size:
        stdout.rename(written)
    stdout.unlink(missing_ok=True)
    try:
        check_messages(ended)
        assert written.exists() == (ended.exit_code == 0)
        assert names_of(runner) - before <= {"out.h5"}
        if ended.exit_code:
            assert end != own_encoders.OK
        else:
            assert end != own_encoders.ERROR
            check_rows(read(written).splits["all"], means)
    finally:
        runner.clear()


def names_of(runner):
    """Return all files and folders, without shards and compiled modules."""
    names = {str(path.relative_to(runner.folder)) for path in runner.folder.rglob("*")}
    return {name for name in names if ".partial" not in name and "__pycache__" not in name}


def check_messages(ended):
    """An error is one line of clipkit, beside what the encoder prints."""
    assert ended.exit_code in (0, 1, 2)
    assert not [words for words in FORBIDDEN if words in ended.stderr]
    said = messages(ended.stderr)
    for line in said.splitlines():
        assert OURS.match(line) or PRINTED in line
    # the line may begin with what the encoder printed without a line feed
    assert said.count("clipkit embed: ") == (ended.exit_code > 0)


def check_rows(split, means):
    """Each image has its mean colour as embedding, whatever its length."""
    assert sorted(split.ids) == sorted(means)
    for row, name in zip(split.features, split.ids, strict=True):
        assert row.shape == (3,)
        np.testing.assert_allclose(unit(row), unit(means[name]), atol=TOLERANCE)


def unit(vector):
    return vector / np.linalg.norm(vector)
