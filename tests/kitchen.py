"""Many short runs of clipkit under make: a stand-in for its script, served by a process that has loaded everything.

`python kitchen.py SOCKET` serves; the stand-in sends its arguments and its standard streams, and leaves with the exit
code of the fork that ran `clipkit.cli.main` on them. When the stand-in is killed, so is the fork.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

Make = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parents[1]

CLIENT = """\
#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as line:
    line.connect({address!r})
    socket.send_fds(line, [json.dumps([os.getcwd(), sys.argv[1:]]).encode()], [0, 1, 2])
    sys.exit(int(line.recv(16) or 1))
"""


class Kitchen:
    """A folder that passes for a virtual environment whose `clipkit` starts in no time."""

    def __init__(self, folder: Path) -> None:
        self.venv = folder
        address = str(folder / "line")
        (folder / "bin").mkdir(parents=True)
        script = folder / "bin" / "clipkit"
        script.write_text(CLIENT.format(python=sys.executable, address=address))
        script.chmod(0o755)
        (folder / ".installed").touch()
        threads = dict.fromkeys(
            ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"
        )  # a pool would not survive a fork
        self.server = subprocess.Popen(
            [sys.executable, __file__, address], env={**os.environ, **threads}
        )
        while not Path(address).exists():
            assert self.server.poll() is None
            time.sleep(0.05)

    def close(self) -> None:
        self.server.terminate()
        self.server.wait()


@pytest.fixture(scope="session")
def kitchen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kitchen]:
    """The one kitchen of a test run."""
    found = Kitchen(tmp_path_factory.mktemp("kitchen") / "venv")
    yield found
    found.close()


@pytest.fixture(scope="session")
def make(kitchen: Kitchen, tiny_clip_dir: Path) -> Make:
    """Run make, unless said on digits with a small random CLIP, two seeds and three prompt sets."""

    def run(
        *words: object, out: Path, check: bool = True, **variables: object
    ) -> subprocess.CompletedProcess[str]:
        settings = {
            "DATASET": "digits",
            "MODEL": tiny_clip_dir,
            "LIMIT": 60,
            "PRECISION": "fp32",
            "RESULTS": out,
        }
        settings |= {"VENV": kitchen.venv, "INSTALLED": kitchen.venv / ".installed"}
        settings |= {"SEEDS": "42 1", "SETS": "generic16 generic32 generic415", **variables}
        line = ["make", *map(str, words), *(f"{name}={value}" for name, value in settings.items())]
        done = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def ran(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of all chapters, two commands at a time, and of chapters 2 and 3 with an untrained twin."""
    out = tmp_path_factory.mktemp("results")
    make("thesis", "-j2", out=out)
    make("chapter2", "chapter3", "-j2", out=out, UNTRAINED=7)
    return out / "tiny-clip-digits"


def environment() -> dict[str, str]:
    """The environment without what a make above this one has put there."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }


def serve(address: str) -> NoReturn:
    """Load everything, then fork for each connection."""
    for name in (
        "torch",
        "transformers.models.clip.modeling_clip",
        "sklearn.svm",
        "sklearn.cluster",
    ):
        importlib.import_module(name)
    for name in (
        "cli",
        "clusters",
        "datasets",
        "embed",
        "figures",
        "models",
        "probes",
        "store",
        "sweeps",
    ):
        importlib.import_module(f"clipkit.{name}")

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as line:
        line.bind(address + ".new")
        line.listen(16)
        Path(address + ".new").rename(address)
        while True:
            connection, _ = line.accept()
            if not os.fork():
                line.close()
                attend(connection)
            connection.close()


def attend(connection: socket.socket) -> NoReturn:
    """Run one clipkit for a stand-in and tell it the exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, streams, _, _ = socket.recv_fds(connection, 1 << 16, 3)
    folder, words = json.loads(request)
    child = os.fork()
    if not child:
        connection.close()
        os.chdir(folder)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        sys.stdin, sys.stdout, sys.stderr = (
            open(n, mode, closefd=False) for n, mode in enumerate("rww")
        )
        from clipkit import cli

        sys.argv, code = ["clipkit", *words], 0
        try:
            cli.main()
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else int(left.code is not None)
        sys.stdout.flush()
        os._exit(code)  # the interpreter's own end takes a second with all that is loaded
    for stream in streams:
        os.close(stream)
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if select.select([connection], [], [], 0.01)[0]:  # the stand-in is gone
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
            os._exit(1)
    connection.sendall(str(os.waitstatus_to_exitcode(ended[1])).encode())
    os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1])
