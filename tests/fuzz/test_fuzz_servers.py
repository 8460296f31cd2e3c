"""Servers that lie: a command gets the right data, or says in one line why not, in time."""

import itertools
import re
import time
from dataclasses import dataclass
from typing import Any

import pytest
from factories import messages
from factories.server import serving
from fuzz.archives import WRITERS, png
from fuzz.commands import Runner

from clipkit.features import read

pytest.importorskip("aiohttp", reason="the extra remote is not installed")
pytestmark = pytest.mark.long

SECONDS = 15  # an honest answer takes none, and a deadline is half a second, three times
MEMORY = 1200 << 20  # an image may have 512 MiB
FAST = {"TIMEOUT_SECONDS": 0.5, "PAUSE_SECONDS": 0.01}
PAGE = b"<!doctype html><title>Log in</title>"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
# What is sent in place of the truth: the status, a header, or what a function makes of the true
# `body`, stated `total`, stated `length` or `first` byte. `before` and `after` are sent endlessly,
# and of an answer with `pace` so many bytes come every 20 ms.
LIES = {
    "nothing": {},
    "401": {"status": "401 Unauthorized"},
    "404": {"status": "404 Not Found"},
    "503": {"status": "503 Service Unavailable"},
    "204": {"status": "204 No Content", "body": lambda part: b""},
    "200 for a part": {"status": "200 OK"},
    "206 without a range": {"status": "206 Partial Content", "total": None},
    "a status of letters": {"status": "abc"},
    "half of the size": {"total": lambda size: size // 2},
    "twice the size": {"total": lambda size: size * 2},
    "no size": {"total": lambda size: "*"},
    "size 0": {"total": lambda size: 0},
    "a size of 40 digits": {"total": lambda size: "9" * 40},
    "2 exabytes": {"total": lambda size: 2**61},
    "a negative size": {"total": lambda size: -size},
    "another start": {"first": lambda first: first + 1},
    "a shorter length": {"length": lambda length: length // 2},
    "a longer length": {"length": lambda length: length + 1000},
    "a length of letters": {"length": lambda length: "x"},
    "half a body": {"body": lambda part: part[: len(part) // 2]},
    "half a body of its length": {"body": lambda part: part[: len(part) // 2], "true": True},
    "no body": {"body": lambda part: b""},
    "more than was asked": {"body": lambda part: part + b"x" * 5000, "true": True},
    "a page": {"body": PAGE, "true": True, "header": "Content-Type: text/html"},
    "a page with status 200": {"status": "200 OK", "body": PAGE, "true": True},
    "gzip": {"header": "Content-Encoding: gzip"},
    "chunks": {"header": "Transfer-Encoding: chunked"},
    "another file each time": {"changes": True},
    "a redirect to itself": {"status": "302 Found", "header": "Location: /a"},
    "a redirect to a file": {"status": "302 Found", "header": "Location: file:///etc/passwd"},
    "a redirect to ftp": {"status": "302 Found", "header": "Location: ftp://127.0.0.1/a"},
    "a redirect to nowhere": {"status": "302 Found", "header": "Location: http://[x/"},
    "a long header": {"header": "X: " + "x" * 10**6},
    "many headers": {"header": "\r\n".join(f"X{i}: x" for i in range(20_000))},
    "a control character": {"status": "404 \x1b[31mred"},
    "silence": {"before": b""},
    "endless continue": {"before": CONTINUE},
    "endless headers": {"before": b"HTTP/1.1 200 OK\r\nX: x\r\n"},
    "a dripping answer": {"pace": 1},
    "an endless body": {"length": None, "after": b"x" * 2**16},
    "hangs up": {"hangs_up": True},
    "another protocol": {"before": b"SSH-2.0-x\r\n"},
}


@dataclass
class Liar:
    """Answers each request for the file `data` as a lie says, in parts that may never end."""

    data: bytes
    lie: dict[str, Any]
    is_first: bool = True

    def __call__(self, request):
        lie, end = self.lie, time.monotonic() + 2 * SECONDS
        for part in self._parts(request):
            yield part
            if time.monotonic() > end:
                return
            time.sleep(0.02 if "before" in lie or "pace" in lie else 0)

    def _parts(self, request):
        lie = self.lie
        if "hangs_up" in lie:
            return
        if "before" in lie:
            yield from itertools.repeat(lie["before"])
        answer = self._header_and_body(request)
        pace = lie.get("pace", len(answer))
        for start in range(0, len(answer), pace):
            yield answer[start : start + pace]
        if "after" in lie:
            yield from itertools.repeat(lie["after"])

    def _header_and_body(self, request):
        data, lie = self.data, self.lie
        if not request.path.startswith("/a") and PAGE not in lie.values():  # the names of classes
            data, lie = b"", {"status": "404 Not Found"}
        if "changes" in lie and not self.is_first:
            data = data[:-700] + bytes(700)
        self.is_first = False
        header = {"Connection": "close", "ETag": hash(data)}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range") or "")
        first, last = map(int, wanted.groups()) if wanted else (0, len(data))
        part = data[first : last + 1]
        status = "206 Partial Content" if wanted else "200 OK"
        total = lie.get("total", int)
        if wanted and total is not None:
            start = lie.get("first", int)(first)
            header["Content-Range"] = f"bytes {start}-{first + len(part) - 1}/{total(len(data))}"
        body = lie.get("body", bytes)
        body = body if body == PAGE else body(part)
        length = lie.get("length", int)
        if length is not None:
            header["Content-Length"] = length(len(body) if "true" in lie else len(part))
        lines = [f"HTTP/1.1 {lie.get('status', status)}"]
        lines += [f"{name}: {value}" for name, value in header.items()]
        lines += [lie["header"]] if "header" in lie else []
        return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.fixture(scope="module")
def runner(fork_server, tmp_path_factory):
    """A runner in a folder with a tar, a Parquet file, an image and what each gives."""
    runner = Runner(fork_server, tmp_path_factory.mktemp("lies"))
    (runner.folder / "a.png").write_bytes(png(1))
    for ending in (".tar", ".parquet", ".csv"):
        source = runner.folder / f"a{ending}"
        if ending in WRITERS:
            WRITERS[ending](source)
        else:
            source.write_text("path\na.png\n")
        assert runner.run("embed", source, "-o", f"right{ending}.h5").exit_code == 0
    return runner


@pytest.mark.parametrize("ending", [".tar", ".parquet", ".csv"])
@pytest.mark.parametrize("name", LIES)
def test_a_server_that_lies_gives_the_right_data_or_one_line(runner, name, ending):
    folder = runner.folder
    runner.clear()
    file = folder / ("a.png" if ending == ".csv" else f"a{ending}")
    with serving(folder) as server:
        server.answer = Liar(file.read_bytes(), LIES[name])
        source = f"{server.url}/a{ending}"
        if ending == ".csv":
            (folder / "out.csv").write_text(f"path\n{server.url}/a.png\n")
            source = "out.csv"
        ended, problem = runner.judge("embed", source, "-o", "out.h5", remote=FAST, memory=MEMORY)
    assert not problem
    assert ended.seconds < SECONDS
    assert "\x1b" not in messages(ended.stderr)
    if ended.exit_code == 0:
        right, got = read(folder / f"right{ending}.h5"), read(folder / "out.h5")
        assert [*got.splits] == [*right.splits]
        for split, other in zip(got.splits.values(), right.splits.values(), strict=True):
            assert (split.features == other.features).all()
    else:
        assert name != "nothing"
        assert not (folder / "out.h5").exists()
