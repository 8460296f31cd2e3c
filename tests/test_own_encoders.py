"""The guard of user code: what an encoder prints, returns and raises."""

from __future__ import annotations

import builtins
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import messages
from factories.runs import stop_at
from shell import clipkit, fails, ok, shell
from test_encoders import CLASS, RUN, rows

from clipkit.base.errors import ClipkitError
from clipkit.embedding import checkpoint
from clipkit.models.own_encoder import Own, OwnTower

OWN = ("-m", "python:own.py:make")
SIZES = "return [[*image.size, image.getpixel((5, 5))[0]] for image in images]"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(code, name="own.py"):
    Path(name).write_text(code)


# ---- Rows ----------------------------------------------------------------------------------------

BUFFER = """
import numpy as np
buffer = np.zeros((8, 3), np.float32)
class make:
    def image(self, images):
        for row, image in enumerate(images):
            buffer[row] = np.asarray(image).mean(axis=(0, 1)) * [1, 1, 0] + [SCALE, 0, 1]
        return buffer[:len(images)]
"""


@pytest.mark.parametrize("scale", ["0", "100_000"])  # rows that differ by less than 2 %
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.long
def test_a_buffer_that_is_used_again_gives_the_rows_of_new_arrays(scale, batch_size):
    run = ("embed", "shapes", "--limit", 12, "-b", batch_size, *OWN, "-o")
    code = BUFFER.replace("SCALE", scale)
    write(code)
    ok(*run, "buffer.h5")
    write(code.replace("[:len(images)]", "[:len(images)].copy()"))
    ok(*run, "new.h5")
    np.testing.assert_array_equal(rows("buffer.h5"), rows("new.h5"))
    assert len(np.unique(rows("buffer.h5"), axis=0)) > 6


def tower_of(value):
    return OwnTower(Own(None, "own", None), lambda _: value, "images")


@pytest.mark.parametrize(
    "value",
    [
        torch.eye(2).to_sparse(),
        torch.eye(2, requires_grad=True),
        torch.eye(2, dtype=torch.bfloat16),
        [torch.eye(2)[0], torch.eye(2, requires_grad=True)[1]],
        np.eye(2, dtype=np.longdouble),
    ],
)
def test_rows_in_other_forms_are_converted(value):
    found = tower_of(value)(images=[0, 1])
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert found.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.eye(2, dtype=torch.complex64), "got complex64"),
        (np.eye(2, dtype=complex), "got ndarray of complex128"),
        (torch.eye(2, device="meta"), "a tensor on the device meta"),
        (np.eye(2) * 1e-300, "expected numbers that float32 holds"),
        (torch.eye(2, dtype=torch.float64) * 1e300, "expected numbers that float32 holds"),
        (np.ma.masked_array(np.eye(2), np.eye(2)), "an array with masked ones"),
        ([[1, 2], [3]], "got list of no array"),
        (np.zeros((2, 0)), "got the shape (2, 0)"),
    ],
)
def test_rows_that_are_no_embeddings_are_refused(value, message):
    with pytest.raises(ClipkitError) as error:
        tower_of(value)(images=[0, 1])
    assert message in error.value.message


MISTAKES = [
    ("return [[1.0] * (3 + (images[0].size[0] == 160))] * len(images)", "as at first, got 4"),
    ("return [[0.0]] * len(images)", "expected an embedding of a first image, got zeros"),
    ("return [[1.0]] * len(images)", "expected different embeddings of two images"),
    ("import sys; sys.exit()", "(line 3): it called sys.exit(None)"),
    ("raise GeneratorExit", "(line 3): GeneratorExit"),
    (SIZES + "\n    logit_scale = 'hundred'", "cannot read logit_scale: ValueError: could not"),
    (SIZES + "\n    device = 'meta'", "expected a device that computes, got meta"),
    (SIZES + "\n    name = property(lambda self: 1 / 0)", "cannot read name (line 4): Zero"),
    (SIZES + "\n    name = property(lambda self: self.no)", "cannot read name (line 4): Attr"),
    (SIZES + "\n    def transform(self, i): import sys; sys.exit()", "it called sys.exit(None)"),
    (SIZES + "\n    name = '\\udc80'", "cannot load own.py:make: UnicodeEncodeError"),
    (
        SIZES + "\n    def __getattribute__(self, name): import sys; sys.exit()",
        "called sys.exit(None)",
    ),
    (SIZES + "\n    image = property(lambda self: exit(0))", "called sys.exit(0)"),
    (SIZES + "\n    name = type('T', (), {'__str__': exit})()", "it called sys.exit("),
    ("return type('T', (), {'__array__': lambda *_: exit(0)})()", "called sys.exit(0)"),
    ("raise type('Mute', (Exception,), {'__str__': lambda self: exit()})", "(line 3): Mute"),
    ("import sys; sys.stdout.close(); sys.stderr = None; exit(3)", "it called sys.exit(3)"),
    (SIZES + "[::-1]", "got that of the other image in a batch of 2"),
    (SIZES + "\n    files = 3", "TypeError: 'int' object is not iterable"),
    (SIZES + "\n    files = ['/dev/zero']", "got /dev/zero, which is a stream"),
    (SIZES + "\n    files = ['/proc/kmsg']", "got /proc/kmsg, which is a stream"),
]


@pytest.mark.parametrize(("body", "message"), MISTAKES)
def test_a_mistake_is_one_line(body, message):
    write(CLASS.format(body))
    result = clipkit(*RUN, *OWN, "-o", "out.h5")
    assert result.exit_code == 1, result.stderr
    (line,) = messages(result.stderr).splitlines()
    assert message in line
    assert line.count("own.py:make") <= 1
    assert "bug in clipkit" not in line
    assert not Path("out.h5").exists()


@pytest.mark.parametrize("module", ["sys", "threading"])
def test_hooks_for_errors_are_put_back(module):
    write(CLASS.format(f"import sys, threading; {module}.excepthook = None; {SIZES}"))
    ok(*RUN, *OWN, "-o", "out.h5")


LEAVING = """
import os
calls = []
class make:
    def image(self, images):
        calls.append(0)
        if len(calls) > 6:
            os._exit(0)
        return [[*image.size, image.getpixel((5, 5))[0]] for image in images]
"""


@pytest.mark.parametrize("output", ["-o out.h5", "> piped.h5"])
@pytest.mark.long
def test_os_exit_leaves_no_output(output, folder):
    write(LEAVING)
    words = " ".join(map(str, (*RUN, *OWN, "-b", 1)))
    result = shell(f"clipkit {words} {output}", folder)
    assert result.returncode == 0
    assert not Path("out.h5").exists()
    assert not Path("piped.h5").exists() or not Path("piped.h5").read_bytes()


def test_what_a_property_that_fails_says_about_texts_is_one_line():
    write("class make:\n    def text(self, texts):\n        raise SystemExit(0)\n")
    line = fails("textembed", "generic32", *OWN, "-o", "out.h5")
    assert "(line 3): it called sys.exit(0)" in line


# ---- Standard output -----------------------------------------------------------------------------

LOUD = """
import os, sys, threading, time, ctypes
print("at import")
class make:
    def __init__(self):
        def talk():
            while True:
                os.write(1, b"thread ")
                time.sleep(0.001)
        threading.Thread(target=talk, daemon=True).start()
    def transform(self, image):
        print("transform")
        return image
    def image(self, images):
        os.system("echo system")
        sys.__stdout__.write("original")
        libc = ctypes.CDLL(None)
        libc.puts(b"C library")
        libc.fflush(None)
        RETURN
"""


@pytest.mark.long
def test_nothing_that_is_printed_gets_into_a_file_on_standard_output(folder):
    write(LOUD.replace("RETURN", SIZES))
    words = " ".join(map(str, (*RUN, *OWN)))
    result = shell(f"clipkit {words} > out.h5 && clipkit info out.h5", folder)
    assert result.returncode == 0, result.stderr
    for printed in ("at import", "transform", "system", "original", "C library", "thread"):
        assert printed in result.stderr
        assert printed not in result.stdout


# ---- Digests -------------------------------------------------------------------------------------

HELD = {
    "a list": "self.held = [weights]",
    "a dict": "self.held = {'a': weights}",
    "an object": "self.held = type('Wrapper', (), {})(); self.held.inner = weights",
    "a tensor": "self.held = torch.tensor(weights)",
    "a parameter": "self.held = torch.nn.Parameter(torch.tensor(weights))",
    "its class": "type(self).held = weights",
    "a global": "global held; held = weights",
    "a closure": "self.image = lambda images, held=weights: type(self).image(self, images)",
    "a default of a keyword": "self.held = lambda *, held=weights: held",
    "a static method": "type(self).held = staticmethod(lambda held=weights: held)",
    "a deque": "import collections; self.held = collections.deque([weights])",
    "a slot of a base class": "self.held = Slotted(); self.held.inner = weights",
    "an attribute of a list": "self.held = List(); self.held.inner = weights",
    "a buffer that is not saved": (
        "self.held = torch.nn.Identity();"
        "self.held.register_buffer('inner', torch.tensor(weights), persistent=False)"
    ),
    "a module that saves nothing": (
        "self.held = Unsaved(); self.held.inner = torch.nn.Parameter(torch.tensor(weights))"
    ),
    "a global of a helper": "its_weights.held = weights",
    "a conjugate": "self.held = (torch.tensor(weights) * 1j).conj()",
    "a sparse tensor that is larger than any memory": (
        "places = torch.arange(len(weights)).expand(2, -1);"
        "self.held = torch.sparse_coo_tensor(places, torch.tensor(weights), (10**9, 10**9))"
    ),
    "a list, very deep": (
        "self.held = functools.reduce(lambda held, _: [held], range(50_000), weights)"
    ),
    "an array of objects": "self.held = np.array([None, [weights]], dtype=object)",
    "a nested tensor": "self.held = torch.nested.nested_tensor([torch.tensor(weights)])",
}
HOLDER = """
import functools
import numpy as np, torch
import its_weights
weights = np.frombuffer(__import__("os").environ["WEIGHTS"].encode(), np.uint8).astype("f4")
class Base: __slots__ = ("inner",)
class Slotted(Base): __slots__ = ()
class List(list): pass
class Unsaved(torch.nn.Module):
    def state_dict(self, *_, **__): return {}
class make:
    def __init__(self):
        global weights
        HOLD
    def image(self, images):
        RETURN
"""


@pytest.mark.parametrize("place", HELD)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
@pytest.mark.long
def test_the_digest_covers_weights_wherever_they_are(place, monkeypatch):
    from clipkit import models

    write("held = None", "its_weights.py")
    monkeypatch.delitem(sys.modules, "its_weights", raising=False)
    code = HOLDER.replace("HOLD", HELD[place]).replace("RETURN", SIZES)
    write(
        code.replace("weights = np", "import os\ndef read(): return np", 1).replace(
            "global weights", "weights = read()"
        )
    )
    found = []
    for text in ("one", "two", "one"):
        monkeypatch.setenv("WEIGHTS", text)
        found.append(models.load(OWN[1], tower="image").details["digest"])
    assert found[0] == found[2] != found[1]


def test_the_digest_leaves_out_what_loaded_the_encoder():
    from clipkit import models

    write(f"{CLASS.format(SIZES)}\nimport numpy; __loader__.cache = numpy.ones(3)")
    assert set(models.load(OWN[1], tower="image").parts) == {"own.py"}


@pytest.mark.long
def test_a_run_does_not_continue_with_another_helper_or_opened_file(folder, monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARD_ROWS", 4)
    write("SCALE = 1\n", "its_helper.py")
    np.save("w.npy", np.ones(3))
    opened = CLASS.format(SIZES).replace("make = E", "def make():\n    W\n    return E()")
    opened = opened.replace("W", "import numpy; numpy.load('w.npy')")
    write("import its_helper\n" + opened)
    run = (*RUN, *OWN, "-o", "out.h5")
    stop_at(2, monkeypatch, *run)
    np.save("w.npy", np.zeros(3))
    assert "model files.opened w.npy was " in fails(*run, exit_code=2)
    np.save("w.npy", np.ones(3))
    write("SCALE = 2\n", "its_helper.py")
    assert "model files.its_helper.py was " in fails(*run, exit_code=2)


def test_the_digest_covers_several_files_of_one_name(folder):
    from clipkit import models

    named = ("a/m.bin", "b/m.bin", "b/own.py", "weights", "a/m.bin", "own.py")
    write(CLASS.format(f"{SIZES}\n    files = {named}\n    held = __import__('numpy').ones(3)"))
    for name in set(named) - {"own.py"}:
        Path(name).parent.mkdir(exist_ok=True)
        write("", name)
    expected = {"own.py", "m.bin", "m.bin (2)", "own.py (2)", "weights (2)", "weights"}
    first = models.load(OWN[1], tower="image")
    assert set(first.parts) == expected
    write("changed", "a/m.bin")
    assert models.load(OWN[1], tower="image").details["digest"] != first.details["digest"]


def test_the_digest_leaves_out_a_script_beside_the_encoder(monkeypatch):
    from clipkit import models

    write(CLASS.format(SIZES))
    write("", "study.py")
    for name in ("__main__", "__mp_main__"):  # multiprocessing adds the second
        script = types.ModuleType("__main__")
        script.__file__ = str(Path("study.py").resolve())
        monkeypatch.setitem(sys.modules, name, script)
    assert set(models.load(OWN[1], tower="image").parts) == {"own.py"}


def test_a_history_without_a_digest_of_weights_is_noted(monkeypatch):
    monkeypatch.setattr(builtins, "_", np.ones(3), raising=False)  # as Python's shell does
    write("SCALE = 1", "its_helper.py")  # code, too
    code = "import its_helper\n" + CLASS.format(SIZES)
    write(code)
    note = "own.py:make: its history has no digest of weights: none were found; name their files in"
    assert note in ok(*RUN, *OWN, "-o", "out.h5").stderr
    write("", "weights.onnx")
    write(f"{code}make.files = 'weights.onnx'")
    assert note not in ok(*RUN, *OWN, "-o", "other.h5").stderr
