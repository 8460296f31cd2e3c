"""Streams: broken pipes, disks and terminals behind standard output, FIFOs, failing pipelines."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from factories import refused, unchanged, write_feature_file
from shell import ok, shell

from clipkit.base import console, tables
from clipkit.features import read

pytestmark = pytest.mark.long

LOGITS = ("logits", "img.h5", "txt.h5")
CLIPKIT = [sys.executable, "-m", "clipkit"]
KINDS = {"img": "images", "txt": "texts", "logits": "logits", "result": "result"}


@pytest.fixture
def inputs(tmp_path):
    """A folder with a small file of each kind."""
    for name, kind in KINDS.items():
        write_feature_file(tmp_path / f"{name}.h5", kind)
    return tmp_path


def write_other_classes(path):
    """Write texts whose classes are not those of the images, which costs a warning."""
    write_feature_file(path, "texts", datasets={"class_names": ["cat", "fox"]})


@pytest.fixture
def once(inputs):
    """The file that `logits` writes."""
    ok("logits", inputs / "img.h5", inputs / "txt.h5", "-o", inputs / "once.h5")
    return (inputs / "once.h5").read_bytes()


def test_standard_output_gets_the_same_bytes_as_a_file(inputs, once):
    run = shell("clipkit -q logits img.h5 - < txt.h5 > piped.h5", inputs)
    assert (run.returncode, run.stderr) == (0, "")
    assert (inputs / "piped.h5").read_bytes() == once


@pytest.mark.parametrize(
    "words", [LOGITS, ("entropy", "logits.h5"), ("info", "img.h5", "--format", "json"), ("--help",)]
)
def test_a_full_disk_behind_standard_output_or_a_closed_one_is_an_error(fork_server, inputs, words):
    with unchanged(inputs):
        ended = fork_server.run(inputs, *words, stdout="/dev/full")
        refused(ended, 1, "cannot write standard output: No space left on device")
        ended = fork_server.run(inputs, *words, close=[1])
        refused(ended, 1, "cannot write standard output: it is closed")


@pytest.mark.parametrize("close", [[1], [1, 2], [0, 1, 2]])
def test_an_output_file_needs_no_standard_output(fork_server, inputs, once, close):
    ended = fork_server.run(inputs, *LOGITS, "-q", "-o", "out.h5", close=close)
    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, b"", "")
    assert (inputs / "out.h5").read_bytes() == once


def test_a_closed_standard_input_is_empty(fork_server, inputs):
    no_input = fork_server.run(inputs, "entropy", close=[0])
    refused(no_input, 1, "standard input: empty input; hint: check whether the command")


def test_messages_are_not_written_into_a_file_that_got_the_number_of_a_closed_stream(
    fork_server, inputs
):
    write_other_classes(inputs / "other.h5")
    words = ("logits", "img.h5", "other.h5", "-o", "out.h5")
    ended = fork_server.run(inputs, *words, close=[0, 2])
    assert (ended.exit_code, ended.stdout) == (0, b"")
    assert read(inputs / "out.h5").kind == "logits"


@pytest.mark.parametrize(
    ("line", "exit_codes"),
    [
        ("clipkit -q logits img.h5 txt.h5 | true", {0, 141}),  # true may leave before or after
        ("clipkit -q logits big.h5 txt.h5 | head -c 100 > /dev/null", {141}),
        ("clipkit -q info long.h5 --format json | head -c 100 > /dev/null", {141}),
    ],
)
def test_a_reader_that_leaves_is_no_error_of_ours(inputs, line, exit_codes):
    n = 40_000
    rows = {"features": np.ones((n, 4), "<f4"), "labels": np.zeros(n, int), "ids": ["x"] * n}
    datasets = {f"train/{name}": value for name, value in rows.items()}
    write_feature_file(inputs / "big.h5", datasets=datasets)
    history = [{"command": "x", "note": "y" * 200_000}]
    write_feature_file(inputs / "long.h5", attributes={"history": history})
    for unbuffered in ("", "1"):
        with unchanged(inputs):
            ended = shell(f"export PYTHONUNBUFFERED={unbuffered}; {line}", inputs)
        assert ended.returncode in exit_codes
        assert ended.stderr == ""


def test_a_pipeline_fails_as_a_whole(inputs):
    run = shell("clipkit -q logits no.h5 txt.h5 | clipkit -q entropy | cat", inputs)
    assert (run.returncode, run.stdout) == (1, "")
    entropy, logits = sorted(run.stderr.splitlines())
    assert entropy.startswith("clipkit entropy: standard input: empty input; hint: ")
    assert logits.startswith("clipkit logits: cannot read no.h5: ")


def test_a_fifo_as_output_gets_the_finished_bytes(fork_server, inputs, once):
    fifo = inputs / "fifo"
    os.mkfifo(fifo)
    with ThreadPoolExecutor(1) as pool:
        received = pool.submit(fifo.read_bytes)
        assert fork_server.run(inputs, *LOGITS, "-o", "fifo").exit_code == 0
        assert received.result() == once
    assert fifo.is_fifo()


def test_a_fifo_gets_nothing_when_the_command_fails(fork_server, inputs):
    os.mkfifo(inputs / "fifo")
    ended = fork_server.run(inputs, "logits", "img.h5", "no.h5", "-o", "fifo")
    refused(ended, 1, "cannot read no.h5: there is no such file")
    assert (inputs / "fifo").is_fifo()


def test_a_device_as_output_is_written_and_stays(fork_server, inputs):
    with unchanged(inputs):
        assert fork_server.run(inputs, *LOGITS, "-o", "/dev/null").exit_code == 0
        ended = fork_server.run(inputs, *LOGITS, "-o", "/dev/full")
        refused(ended, 1, "cannot write /dev/full: No space left on device")
    assert Path("/dev/null").is_char_device()


def on_terminal(folder, *words):
    """Run clipkit on a terminal, and return its exit code and what the terminal shows."""
    terminal, slave = pty.openpty()
    streams = {"stdin": slave, "stdout": slave, "stderr": slave}
    child = subprocess.Popen([*CLIPKIT, *words], cwd=folder, **streams)
    os.close(slave)
    output = b""
    with contextlib.suppress(OSError):  # the child has closed the terminal
        while part := os.read(terminal, 4096):
            output += part
    os.close(terminal)
    return child.wait(), " ".join(output.decode().split())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (LOGITS, "cannot write binary data to a terminal; hint: add -o FILE, or pipe it into"),
        (["entropy"], "expected an input file, got a terminal; hint: name a file, or pipe one in"),
    ],
)
def test_binary_is_refused_on_a_terminal(inputs, words, line):
    exit_code, output = on_terminal(inputs, *words)
    assert exit_code == 2
    assert line in output


@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        ({"PYTHONIOENCODING": "latin-1"}, b"caf\xe9, \\u732b"),
        ({"PYTHONIOENCODING": "ascii"}, b"caf\\xe9, \\u732b"),
        ({"PYTHONIOENCODING": "ascii", "PYTHONUNBUFFERED": "1"}, b"caf\\xe9, \\u732b"),
        ({"LC_ALL": "C", "PYTHONUTF8": "0"}, b"caf\\xe9, \\u732b"),
    ],
)
def test_what_the_encoding_of_a_stream_lacks_is_escaped(inputs, setting, shown):
    write_feature_file(inputs / "café.h5", datasets={"class_names": ["café", "猫"]})
    env = {**os.environ, **setting}
    for words, exit_code in [(["info", "café.h5"], 0), (["entropy", "café.h5"], 1)]:
        ended = subprocess.run([*CLIPKIT, *words], cwd=inputs, env=env, capture_output=True)
        assert ended.returncode == exit_code, ended.stderr
        assert (shown in ended.stdout) == (exit_code == 0)
        assert ended.stderr.count(b"\n") == exit_code
        assert b"bug" not in ended.stderr


NOISY = """
import logging, sys, warnings
from clipkit import cli
from clipkit.base import console
from clipkit.statistics import softmax

def noisy(*words, summary=softmax.mean_entropy_and_confidence):
    warnings.warn("a library's warning")
    logging.getLogger("matplotlib").warning("a library's message")
    console.warn("our own")
    return summary(*words)

softmax.mean_entropy_and_confidence = noisy
cli.main()
"""


@pytest.mark.parametrize("words", [[], ["--debug"]])
def test_warnings_of_libraries_are_shown_for_debugging_only(inputs, words):
    line = [sys.executable, "-c", NOISY, *words, "entropy", "logits.h5"]
    ended = subprocess.run(line, cwd=inputs, capture_output=True, text=True)
    assert ended.returncode == 0
    assert "clipkit: warning: our own\n" in ended.stderr
    assert ("a library's" in ended.stderr) == bool(words)


def test_a_plot_does_not_use_the_backend_of_jupyter(inputs):
    runs = {"runs/temperature": [1.0, 0.5], "runs/split": ["test", "test"]}
    write_feature_file(inputs / "result.h5", "result", datasets=runs)
    backend = "MPLBACKEND=module://no_such_package.backend_inline"
    run = shell(f"{backend} clipkit -q plot confusion result.h5 > x.png", inputs)
    assert (run.returncode, run.stderr) == (0, "")
    assert (inputs / "x.png").read_bytes().startswith(b"\x89PNG")


# Run clipkit with an interrupt that comes when it begins to import a module.
INTERRUPTED_IMPORT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from clipkit.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["clipkit.cli", "typer", "h5py"])
def test_an_interrupt_at_the_start_leaves_no_traceback(inputs, module):
    script = INTERRUPTED_IMPORT.format(module=module)
    line = [sys.executable, "-c", script, "info", "img.h5"]
    ended = subprocess.run(line, cwd=inputs, capture_output=True, text=True)
    assert ended.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in ended.stderr


def test_data_on_stdout_and_all_else_on_stderr(inputs):
    write_other_classes(inputs / "other.h5")
    result = ok("logits", inputs / "img.h5", inputs / "other.h5")
    assert result.stdout_bytes.startswith(b"\x89HDF")
    assert result.stderr.startswith("clipkit: warning: ")


def test_machine_formats_round_numbers_alike(capsys):
    row = {"acc1": 0.39599999999999996, "C": 1e-10, "n": 3, "b": True, "x": 1 / 3, "y": np.nan}
    shown = []
    for format in ("tsv", "csv", "json"):
        tables.emit([row], tables.View(format))
        shown.append(capsys.readouterr().out)
    assert shown[0].splitlines()[1].split("\t") == ["0.396", "1e-10", "3", "true", "0.33333333", ""]
    assert shown[0].replace("\t", ",") == shown[1]
    values = {"acc1": 0.396, "C": 1e-10, "n": 3, "b": True, "x": 0.33333333, "y": None}
    assert json.loads(shown[2]) == [values]


def test_a_bar_on_a_terminal_has_a_count_and_a_rate_and_is_erased(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with console.progress("embedding digits", "images") as update:
        time.sleep(0.6)
        update(30, 120)
    shown = capsys.readouterr().err
    assert re.search(r" 30/120 [1-5]?\d images/s ", shown)
    assert shown.endswith("\x1b[1A\x1b[2K")


def test_long_work_writes_plain_lines_where_stderr_is_no_terminal(monkeypatch, capsys):
    def work(seconds):
        with console.progress("embedding digits", "images", 29_970) as update:
            update(30_000, 60_000)
            time.sleep(seconds)
            update(60_000, 60_000)
        return capsys.readouterr().err.splitlines()

    monkeypatch.setattr(console, "FIRST_LINE_SECONDS", 1000)
    assert work(0) == []
    monkeypatch.setattr(console, "FIRST_LINE_SECONDS", 0.1)
    monkeypatch.setattr(console, "NEXT_LINE_SECONDS", 0.1)
    first, *_, last = work(0.5)
    state = r"clipkit: embedding digits: 30,000 of 60,000 images, (\d+) images/s, (\d+) s left"
    rate, left = map(int, re.fullmatch(state, first).groups())
    assert rate * left == pytest.approx(30_000, rel=0.1)
    assert re.fullmatch(r"clipkit: embedding digits: 60,000 images in \d+ s", last)
    console.set_quiet(True)
    try:
        assert work(0.5) == []
    finally:
        console.set_quiet(False)
