"""Archives that are cut, whose footers lie, or that are replaced while they are read."""

import contextlib
import itertools
import os
import threading

import pytest
from fuzz.archives import WRITERS, write_parquet
from fuzz.commands import TIMES, Runner, cases
from fuzz.damage import damaged

from clipkit import datasets
from clipkit.base.errors import ClipkitError
from clipkit.features import read

pytestmark = [pytest.mark.long, pytest.mark.exhaustive]


@pytest.fixture(scope="module")
def runner(fork_server, tmp_path_factory):
    return Runner(fork_server, tmp_path_factory.mktemp("archives"))


def pixels(path):
    split = datasets.load(str(path)).splits["all"]
    return [split.image(row).tobytes() for row in range(len(split))]


def stated(content, old, new, place):
    """Replace a number of a footer, as Thrift writes it, at one of the places where it is."""
    start = content.rindex(b"PAR1", 4) - 4
    start -= int.from_bytes(content[start : start + 4], "little")
    zigzag = bytes([2 * old])
    places = [at for at in range(start, len(content) - 8) if content[at : at + 1] == zigzag]
    at = places[place % len(places)]
    return content[:at] + bytes([2 * new % 128]) + content[at + 1 :]


@cases(30)
def test_a_footer_that_lies_gives_the_right_data_or_one_line(rng, runner):
    """Each byte of the footer that may be a number of rows is set to another number."""
    right = write_parquet(runner.folder / "right.parquet")
    path = runner.folder / "lies.parquet"
    content = stated(right.read_bytes(), rng.choice((2, 4)), rng.randrange(64), rng.randrange(99))
    path.write_bytes(content)
    with contextlib.suppress(ClipkitError):
        assert pixels(path) == pixels(right)


@cases(30)
def test_a_damaged_archive_gives_one_line_or_rows(rng, runner):
    ending = rng.choice(list(WRITERS))
    path = WRITERS[ending](runner.folder / f"damaged{ending}")
    path.write_bytes(damaged(path.read_bytes(), rng))
    ended, problem = runner.judge("embed", path.name, "-o", "out.h5")
    assert not problem
    assert ended.exit_code in (0, 1, 3)
    assert ended.seconds < 20
    assert (runner.folder / "out.h5").exists() == (ended.exit_code != 1)
    runner.clear()


@contextlib.contextmanager
def replaced(path, versions, pause):
    """Replace a file by one of the versions after another, until the block ends."""
    ended = threading.Event()

    def replace():
        for version in itertools.cycle(versions):
            temporary = path.with_name("writing")
            temporary.unlink(missing_ok=True)
            os.link(version, temporary)  # faster than a copy, so that a reader meets it
            temporary.replace(path)
            if ended.wait(pause):
                return

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        path.with_name("writing").unlink(missing_ok=True)


@pytest.mark.parametrize("pause", [0.0005, 0.005, 0.05])
@pytest.mark.parametrize("ending", WRITERS)
def test_rows_of_two_files_do_not_mix(runner, ending, pause):
    """An embedding has all rows of one version, or says that the file changed."""
    versions, right = [], []
    for number, first in enumerate((0, 100)):
        versions.append(WRITERS[ending](runner.folder / f"version{number}{ending}", 40, first))
        runner.clear()
        assert runner.run("embed", versions[-1].name, "-o", "out.h5").exit_code == 0
        right.append(read(runner.folder / "out.h5").splits["all"].features)
    path = runner.folder / f"changing{ending}"
    for _ in range(2 * TIMES):
        runner.clear()
        path.unlink(missing_ok=True)
        os.link(versions[0], path)
        with replaced(path, versions, pause):
            ended, problem = runner.judge("embed", path.name, "-o", "out.h5", slow=0.01)
        assert not problem or problem.endswith(("writing", path.name))
        if ended.exit_code == 0:
            got = read(runner.folder / "out.h5").splits["all"].features
            assert any((got == features).all() for features in right)
        else:
            assert "changed" in ended.stderr or "one file" in ended.stderr, ended.stderr
