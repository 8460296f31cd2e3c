"""Streams: pipes that break, disks and terminals behind standard output, FIFOs, pipelines that fail as a whole."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from faults import forge, refused, unchanged
from shell import clipkit, ok, shell
from zygote import Zygote, shared

from clipkit.features import read


@pytest.fixture(scope="module")
def zygote() -> Zygote:
    return shared()


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A folder with small files of images, texts and logits."""
    for name, kind in (("img", "images"), ("txt", "texts"), ("logits", "logits")):
        forge(tmp_path / f"{name}.h5", kind)
    return tmp_path


MULTIPLY = ("logits", "img.h5", "txt.h5")


def test_standard_output_gets_the_same_bytes_as_a_file(inputs: Path) -> None:
    ok(
        *(inputs / word if word.endswith("5") else word for word in MULTIPLY),
        "-o",
        inputs / "out.h5",
    )
    made = shell("clipkit logits img.h5 - < txt.h5 > piped.h5", inputs)
    assert (made.returncode, made.stderr) == (0, "")
    assert (inputs / "piped.h5").read_bytes() == (inputs / "out.h5").read_bytes()


def test_process_substitution_is_an_input(inputs: Path) -> None:
    made = shell(
        "clipkit logits <(cat img.h5) <(cat txt.h5) | clipkit entropy -t 1,0.5 | head -n 1", inputs
    )
    assert (made.returncode, made.stderr, made.stdout.split("\t")[0]) == (0, "", "split")


@pytest.mark.parametrize(
    "words",
    [
        MULTIPLY,
        ("entropy", "logits.h5"),
        ("info", "img.h5", "--format", "json"),
        ("--help",),
        ("--version",),
    ],
)
def test_a_full_disk_behind_standard_output(
    zygote: Zygote, inputs: Path, words: tuple[str, ...]
) -> None:
    with unchanged(inputs):
        ended = zygote.run(
            inputs, *words, stdout="/dev/full"
        )  # to the interpreter's very end, which flushes again
        refused(ended, 1, "No space left on device")


def test_a_closed_standard_output_or_error_or_input(zygote: Zygote, inputs: Path) -> None:
    with unchanged(inputs):
        refused(
            zygote.run(inputs, *MULTIPLY, fake=True, close=[1]),
            1,
            "standard output must be open; it is closed",
        )
        refused(
            zygote.run(inputs, "entropy", fake=True, close=[0]),
            1,
            "standard input: empty input: did the command before it fail?",
        )
        assert zygote.run(inputs, "entropy", "no.h5", fake=True, close=[2]).code == 1


def test_messages_do_not_end_up_in_a_file_that_takes_the_number_of_a_closed_stream(
    zygote: Zygote, inputs: Path
) -> None:
    forge(inputs / "other.h5", "texts", datasets={"class_names": ["cat", "fox"]})  # warns
    ended = zygote.run(
        inputs, "logits", "img.h5", "other.h5", "-o", "out.h5", fake=True, close=[0, 2]
    )
    assert (ended.code, ended.stdout) == (0, b"")
    assert read(inputs / "out.h5").kind == "logits"


@pytest.mark.parametrize(
    "line",
    [
        "clipkit logits img.h5 txt.h5 | true",
        "clipkit logits big.h5 txt.h5 | head -c 100 > /dev/null",
        "clipkit info long.h5 --format json | head -c 100 > /dev/null",
    ],
)
def test_a_reader_that_leaves_is_no_error_of_ours(inputs: Path, line: str) -> None:
    import numpy as np

    n = 40_000
    rows = {
        "features": np.ones((n, 4), "<f4"),
        "labels": np.zeros(n, int),
        "ids": np.array(["x"] * n),
    }
    forge(inputs / "big.h5", datasets={f"train/{key}": value for key, value in rows.items()})
    forge(
        inputs / "long.h5",
        attributes={"history": '[{"command":"x","note":"' + "y" * 200_000 + '"}]'},
    )
    for unbuffered in ("", "1"):
        with unchanged(inputs):
            ended = shell(f"export PYTHONUNBUFFERED={unbuffered}; {line}", inputs)
        assert (ended.returncode, ended.stderr) in ((141, ""), (0, ""))
        assert (
            ended.returncode == 141 or "true" in line
        )  # which may leave before or after a small file


def test_a_pipeline_fails_as_a_whole(inputs: Path) -> None:
    made = shell("clipkit logits no.h5 txt.h5 | clipkit entropy | cat", inputs)
    assert made.returncode == 1
    assert made.stdout == ""
    first, second = sorted(made.stderr.splitlines())
    assert first == "clipkit entropy: standard input: empty input: did the command before it fail?"
    assert second == "clipkit logits: the input must exist; no.h5 does not"


def test_a_script_under_pipefail_stops(inputs: Path) -> None:
    made = shell(
        "set -e; clipkit logits img.h5 txt.h5 -t 0 | clipkit entropy > report.tsv; echo went on",
        inputs,
    )
    assert made.returncode != 0
    assert made.stdout == ""


def test_a_fifo_as_output_gets_the_finished_bytes(zygote: Zygote, inputs: Path) -> None:
    fifo, got = inputs / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
    reader.start()
    ended = zygote.run(inputs, *MULTIPLY, "-o", "fifo", fake=True)
    reader.join()
    assert ended.code == 0
    ok(
        *(inputs / word if word.endswith("5") else word for word in MULTIPLY),
        "-o",
        inputs / "out.h5",
    )
    assert got == [(inputs / "out.h5").read_bytes()]
    assert fifo.is_fifo()


def test_a_fifo_gets_nothing_when_the_command_fails(zygote: Zygote, inputs: Path) -> None:
    os.mkfifo(inputs / "fifo")
    refused(
        zygote.run(inputs, "logits", "img.h5", "no.h5", "-o", "fifo", fake=True),
        1,
        "the input must exist",
    )
    assert (inputs / "fifo").is_fifo()


def test_a_device_as_output(zygote: Zygote, inputs: Path) -> None:
    with unchanged(inputs):
        assert zygote.run(inputs, *MULTIPLY, "-o", "/dev/null", fake=True).code == 0
        refused(
            zygote.run(inputs, *MULTIPLY, "-o", "/dev/full", fake=True),
            1,
            "/dev/full must take the whole result; got: No space left on device",
        )
    assert Path("/dev/null").is_char_device()


def test_a_plot_on_a_full_disk(zygote: Zygote, inputs: Path) -> None:
    forge(
        inputs / "result.h5",
        "result",
        datasets={"runs/temperature": [1.0, 0.5], "runs/split": ["test", "test"]},
    )
    with unchanged(inputs):
        ended = zygote.run(
            inputs,
            "plot",
            "confusion",
            "result.h5",
            "-o",
            "x.png",
            limits={"RLIMIT_FSIZE": 2000},
            fake=True,
        )
        assert ended.code == 1
        assert ended.stderr.splitlines()[-1].startswith("clipkit plot confusion: ")
        assert "Traceback" not in ended.stderr


def on_terminal(folder: Path, *words: str) -> tuple[int, str]:
    """Run clipkit with a terminal as standard output and error."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "clipkit", *words],
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the terminal is gone
            break
        if not part:
            break
        shown += part
    os.close(ours)
    return child.wait(), shown.decode()


def test_binary_is_refused_on_a_terminal(inputs: Path) -> None:
    code, shown = on_terminal(inputs, *MULTIPLY)
    assert code == 2
    assert (
        "binary data is not written to a terminal; hint: add -o FILE, or pipe it into the next command"
        in " ".join(shown.split())
    )


def test_input_from_a_terminal_is_refused(inputs: Path) -> None:
    code, shown = on_terminal(inputs, "entropy")
    assert code == 2
    assert "an input file is missing; hint: name a feature file, or pipe one in" in " ".join(
        shown.split()
    )


def test_a_report_is_a_table_on_a_terminal_and_harmless(inputs: Path) -> None:
    forge(inputs / "evil.h5", "images", datasets={"class_names": ["\x1b[31mred", "a\nb"]})
    code, shown = on_terminal(inputs, "info", "evil.h5")
    assert code == 0
    assert "\x1b[31mred" not in shown
    assert "\\x1b[31mred" in shown


def test_an_interrupt_at_the_start_leaves_no_traceback(inputs: Path) -> None:
    for delay in (0.02, 0.1, 0.3):
        child = subprocess.Popen(
            [sys.executable, "-m", "clipkit", "info", "img.h5"],
            cwd=inputs,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        try:
            child.wait(delay)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGINT)
        _, said = child.communicate()
        if delay > 0.05:  # before that it may be Python itself that starts
            assert "Traceback" not in said
        assert child.returncode in (0, 130, -signal.SIGINT, 1)


def test_data_on_stdout_and_all_else_on_stderr(inputs: Path) -> None:
    forge(inputs / "other.h5", "texts", datasets={"class_names": ["cat", "fox"]})
    result = clipkit("logits", inputs / "img.h5", inputs / "other.h5")
    assert result.exit_code == 0
    assert result.stdout_bytes.startswith(b"\x89HDF")
    assert result.stderr.startswith("clipkit: warning: ")
