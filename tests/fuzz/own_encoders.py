"""One's own encoders that do what code should not, in one or more tricks.

An encoder gives an image's mean colour. A trick changes what it returns, raises, prints, is called
or holds. `OK` tricks give the right rows, `ERROR` tricks an error, and `ANY` tricks either.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

OK, ERROR, ANY = "ok", "error", "any"
IMAGES = 7

TEMPLATE = """\
{module}
import atexit, asyncio, collections, ctypes, functools, gc, logging, os, signal, subprocess, sys
import threading, time, types, unittest.mock, warnings, weakref
import numpy as np
import torch
CALLS = [0]
BUFFER = np.zeros((64, 3), np.float32)
TENSOR = torch.zeros(64, 3)
LIST = [[0.0] * 3 for _ in range(64)]
class Fault(BaseException):
    pass
class Mute(Exception):
    def __str__(self):
        raise ValueError("no text")
def fail(error):
    raise error
def rows(images):
    CALLS[0] += 1
    return np.array([np.asarray(image, np.float32).mean((0, 1)) for image in images])
{before_class}
class Own:
    {attributes}
    def __init__(self, *arguments):
        {init}
    def image(self, images):
        {before}
        e = rows(images)
        n = len(e)
        {after}
        return {value}
{after_class}
def make(*arguments):
    {making}
    return Own()
{end}
"""
DEFAULTS = {"module": "", "value": "e"} | dict.fromkeys(
    (
        *("before_class", "attributes", "init", "before", "after"),
        *("after_class", "making", "end"),
    ),
    "pass",
)

BUFFERS = [
    "BUFFER[:n] = e; e = BUFFER[:n]",
    "TENSOR[:n] = torch.tensor(e); e = TENSOR[:n]",
    "BUFFER[:n] = e; e = list(BUFFER[:n])",
    "TENSOR[:n] = torch.tensor(e); e = list(TENSOR[:n])",
    "TENSOR[:n] = torch.tensor(e); e = tuple(TENSOR[:n].requires_grad_(False))",
    "LIST[:n] = e.tolist(); e = LIST[:n] if n < 64 else LIST",
    "BUFFER[:n] = e; e = memoryview(BUFFER[:n])",
    "BUFFER[:n] = e; e = torch.from_numpy(BUFFER[:n])",
    "BUFFER[:n] = e; e = [torch.from_numpy(row) for row in BUFFER[:n]]",
    "BUFFER[:n] = e; e = [row for row in torch.from_numpy(BUFFER)[:n]]",
    "BUFFER[:n] = e; e = np.ma.masked_array(BUFFER[:n])",
]
RETURNED = [
    "e.tolist()",
    "torch.tensor(e)",
    "torch.tensor(e, requires_grad=True) * 1",
    "torch.nn.Parameter(torch.tensor(e))",
    "torch.tensor(e).to_sparse()",
    "torch.tensor(e).to_sparse_csr()",
    "torch.tensor(e).bfloat16()",
    "torch.tensor(e).half()",
    "torch.tensor(e).double()",
    "(100 * torch.tensor(e)).int()",
    "torch.quantize_per_tensor(torch.tensor(e), 1.0, 0, torch.quint8)",
    "torch.tensor(e).t().contiguous().t()",
    "torch.tensor(e).as_subclass(type('Sub', (torch.Tensor,), {}))",
    "torch.conj(torch.tensor(e))",
    "-torch.tensor(-e)",
    "[torch.tensor(row) for row in e]",
    "tuple(torch.tensor(row, requires_grad=True) for row in e)",
    "[torch.tensor(row).bfloat16() for row in e]",
    "[list(torch.tensor(row)) for row in e]",
    "e.astype(np.float16)",
    "e.astype('>f4')",
    "e.astype('>f8')",
    "e.astype(np.longdouble)",
    "(100 * e).astype(np.uint16)",
    "(100 * e).astype(np.int64)",
    "np.asfortranarray(e)",
    "np.asmatrix(e)",
    "np.repeat(e, 2, 0)[::2]",
    "np.ma.masked_array(e)",
    "e.view(type('Sub', (np.ndarray,), {}))",
    "np.frombuffer(e.tobytes(), e.dtype).reshape(e.shape)",  # is read-only
    "list(e)",
    "tuple(map(tuple, e))",
    "[[np.float64(x) for x in row] for row in e]",
    "collections.UserList(e.tolist())",
    "type('Box', (), {'__array__': lambda self, dtype=None, copy=None: e})()",
    "type('Box', (), {'__array_interface__': e.__array_interface__, 'e': e})()",
    "memoryview(e)",
]
REFUSED = [
    "None",
    "3.0",
    "'text'",
    "b'bytes'",
    "{}",
    "dict(enumerate(e))",
    "set(map(tuple, e))",
    "(row for row in e)",
    "lambda: e",
    "iter(e)",
    "e[0]",
    "e[None]",
    "e.T[:, :1]",
    "e[:, :0]",
    "e[:0]",
    "np.concatenate([e, e])",
    "e * 0",
    "e * np.nan",
    "e * np.inf",
    "e * 0 + 1",
    "e.astype(complex)",
    "e > 100",
    "e.astype(str)",
    "e.astype(object)",
    "e.astype('f8') * 1e-300",
    "e.astype('f8') * 1e300",
    "np.ma.masked_array(e, e > 0)",
    "np.array([tuple(row) for row in e], 'f4,f4,f4')",
    "e.astype('M8[s]')",
    "torch.tensor(e).to('meta')",
    "torch.tensor(e).cfloat()",
    "torch.tensor(e) > 100",
    "[[1.0], [2.0, 3.0]]",
    "[torch.zeros(3), torch.zeros(4)]",
    "[torch.tensor(e), 3]",
    "[None] * n",
    "[{} for _ in e]",
    "torch.tensor(e).sum()",
    "type('Box', (), {'__array__': lambda self, dtype=None, copy=None: fail(Fault())})()",
    "type('Box', (), {'__array__': lambda self, dtype=None, copy=None: 'text'})()",
    "type('Box', (), {'__len__': lambda self: fail(SystemExit(0))})()",
    "type('Sub', (list,), {'__iter__': lambda self: fail(SystemExit(0))})(e.tolist())",
    "type('Sub', (list,), {'__bool__': lambda self: fail(Fault())})(e.tolist())",
]
LATE = [  # in a batch after those at load
    "e = e if CALLS[0] < 5 else e[:, :2]",
    "e = e if CALLS[0] < 5 else e[:-1]",
    "e = e if CALLS[0] < 5 else None",
    "e = e if CALLS[0] < 5 else e * np.nan",
    "e = e if CALLS[0] < 5 else torch.tensor(e).to('meta')",
    "e = e if CALLS[0] < 5 else e.astype(complex)",
    "CALLS[0] < 5 or fail(SystemExit(0))",
    "CALLS[0] < 5 or fail(Fault('x'))",
    "CALLS[0] < 5 or fail(GeneratorExit())",
    "CALLS[0] < 5 or fail(StopIteration(3))",
    "CALLS[0] < 5 or fail(BrokenPipeError(32, 'Broken pipe'))",
    "CALLS[0] < 5 or fail(OSError(28, 'No space left on device'))",
    "CALLS[0] < 5 or fail(asyncio.CancelledError())",
]
ERRORS = [
    "ValueError('a\\nb')",
    "ValueError('\\udc80 \\x1b[31m \\x00')",
    "ValueError('x' * 100_000)",
    "ValueError()",
    "KeyError('key')",
    "Mute()",
    "Fault()",
    "SystemExit()",
    "SystemExit(0)",
    "SystemExit('text')",
    "GeneratorExit()",
    "StopIteration()",
    "asyncio.CancelledError()",
    "RecursionError()",
    "BrokenPipeError(32, 'Broken pipe')",
    "OSError(28, 'No space left on device')",
    "FileNotFoundError(2, 'No such file', 'weights.bin')",
    "UnicodeDecodeError('utf-8', b'\\xff', 0, 1, 'invalid')",
    "ModuleNotFoundError('no module', name='toy')",
    "ExceptionGroup('group', [ValueError('a')])",
    "BaseExceptionGroup('group', [SystemExit(0)])",
    "ImportError('libtoy.so: failed')",
    "AttributeError('no')",
    "AssertionError()",
    "TimeoutError()",
    "EOFError()",
    "Warning('w')",
    "NotImplementedError()",
]
PRINTS = [
    "print('PRINTED')",
    "print('PRINTED', end='')",
    "os.write(1, b'PRINTED')",
    "os.system('echo PRINTED')",
    "subprocess.run(['echo', 'PRINTED'])",
    "subprocess.Popen(['sh', '-c', 'sleep 0.4; echo PRINTED'])",
    "sys.__stdout__.write('PRINTED')",
    "sys.stdout.buffer.write(b'PRINTED')",
    "ctypes.CDLL(None).puts(b'PRINTED')",
    "open('/dev/stdout', 'w').write('PRINTED')",
    "os.fdopen(1, 'w', closefd=False).write('PRINTED')",
    "logging.basicConfig(stream=sys.stdout); logging.warning('PRINTED')",
    "warnings.warn('PRINTED')",
    "threading.Thread(target=print, args=('PRINTED',)).start()",
    "threading.Timer(0.3, print, ('PRINTED',)).start()",
    "threading.Timer(0.3, os.write, (1, b'PRINTED')).start()",
    "atexit.register(print, 'PRINTED')",
    "atexit.register(os.write, 1, b'PRINTED')",
    "threading.Thread(target=sys.exit).start()",
]
SURROUNDINGS = [
    "sys.stdout = None",
    "sys.stdout = sys.stderr",
    "sys.stdout.close()",
    "sys.stderr = None",
    "sys.stderr.close()",
    "os.close(1)",
    "os.close(0)",
    "os.dup2(2, 1)",
    "os.chdir('elsewhere')",
    "os.environ.clear()",
    "sys.path.clear()",
    "np.seterr(all='raise')",
    "torch.set_default_dtype(torch.float64)",
    "torch.set_default_device('meta')",
    "torch.set_grad_enabled(True)",
    "torch.use_deterministic_algorithms(True)",
    "sys.setrecursionlimit(200)",
    "warnings.simplefilter('error')",
    "gc.disable()",
    "gc.collect()",
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "signal.signal(signal.SIGPIPE, signal.SIG_DFL)",
    "threading.excepthook = None",
    "sys.excepthook = None",
    "sys.unraisablehook = None",
    "sys.settrace(lambda *_: None)",
    "sys.argv.clear()",
    "sys.stdin = None",
    "threading.Thread(target=time.sleep, args=(1,)).start()",
    "import builtins; builtins.print = None",
    "logging.disable()",
    "logging.raiseExceptions = False; logging.getLogger().setLevel(1)",
    "torch.manual_seed(0); np.random.seed(0)",
]
ARGUMENTS = [  # changed in place
    "images.clear()",
    "images.append(images[0])",
    "images.reverse()",
    "images[0].paste((0, 0, 0), (0, 0, *images[0].size))",
]
NAMES = [
    "''",
    "'a\\nb'",
    "'a\\tb\\x1b[31m'",
    "'\\udc80'",
    "'\\0'",
    "'x' * 100_000",
    "'../own'",
    "'-o'",
    "3",
    "None",
    "b'bytes'",
    "float('nan')",
    "[1]",
    "type('T', (str,), {})('sub')",
    "type('T', (), {'__str__': lambda self: fail(SystemExit(0))})()",
    "type('T', (), {'__str__': lambda self: 3})()",
    "np.array([1, 2])",
]
SCALES = [
    "'hundred'",
    "'100'",
    "float('nan')",
    "float('inf')",
    "0",
    "-1",
    "1e-400",
    "10**400",
    "True",
    "np.float32(5)",
    "torch.tensor(3.0)",
    "torch.nn.Parameter(torch.tensor(3.0))",
    "torch.tensor([1.0, 2.0])",
    "np.array([])",
    "3j",
    "[3]",
    "object()",
    "type('T', (), {'__float__': lambda self: fail(Fault())})()",
    "type('T', (), {'__float__': lambda self: 'x'})()",
]
DEVICES = [
    "'meta'",
    "'cuda:9'",
    "''",
    "'cpu:0'",
    "'toaster'",
    "3",
    "None",
    "torch.device('cpu')",
    "object()",
    "b'cpu'",
    "type('T', (), {'type': 'cpu'})()",
]
FILES = [
    "()",
    "'own.py'",
    "['own.py', 'own.py']",
    "['missing']",
    "['pictures']",
    "['/dev/zero']",
    "['fifo']",
    "3",
    "None",
    "[3]",
    "[None]",
    "[b'own.py']",
    "['']",
    "['~nouser/x']",
    "['\\udc80']",
    "['a\\0b']",
    "['x' * 5000]",
    "(fail(SystemExit(0)) for _ in range(1))",
    "{'own.py': 1}",
    "__import__('pathlib').Path('own.py')",
]
HELD = [  # among its attributes
    "[np.ones(3)]",
    "{'a': np.ones(3), 3: np.zeros(2), None: 1}",
    "torch.nn.Linear(2, 3)",
    "torch.nn.Linear(2, 3, device='meta')",
    "torch.nn.Parameter(torch.ones(3))",
    "torch.ones(3).to_sparse()",
    "torch.ones(2, 2).to_sparse_csr()",
    "torch.quantize_per_tensor(torch.ones(3), 1.0, 0, torch.qint8)",
    "torch.ones(3).cfloat()",
    "torch.conj(torch.ones(3).cfloat())",
    "torch._neg_view(torch.ones(3))",
    "torch.ones(3).bfloat16()",
    "torch.ones(3).to(torch.float8_e4m3fn)",
    "torch.ones(3).expand(2, 3)",
    "torch.empty(0, 3)",
    "torch.tensor(3.0)",
    "np.array([np.ones(2), 'x', None], object)",
    "np.array([(1, 2.0)], 'i4,f4')",
    "np.array(['a', 'b'])",
    "np.array(3.0)",
    "np.ma.masked_array(np.ones(3))",
    "np.array(['2020-01-01'], 'M8[D]')",
    "np.load('weights.npy')",
    "np.load('weights.npy', mmap_mode='r')",
    "open('weights.npy', 'rb')",
    "threading.Lock()",
    "(x for x in range(3))",
    "weakref.ref(Own)",
    "ctypes.create_string_buffer(3)",
    "types.MappingProxyType({'a': np.ones(3)})",
    "collections.OrderedDict(a=np.ones(3))",
    "functools.partial(rows, np.ones(3))",
    "self",
    "unittest.mock.Mock()",
    "unittest.mock.MagicMock()",
    "type('T', (dict,), {'items': lambda self: fail(Fault())})(a=1)",
    "type('T', (dict,), {'keys': lambda self: fail(Fault())})(a=1)",
    "type('T', (list,), {'__iter__': lambda self: fail(Fault())})([1])",
    "type('T', (), {'__getattr__': lambda self, name: fail(Fault())})()",
    "type('T', (), {'__getattribute__': lambda self, name: fail(SystemExit(0))})()",
    "type('T', (), {'__getattribute__': lambda self, name: fail(ValueError())})()",
    "type('T', (), {'__slots__': ('a', 'b')})()",
    "type('T', (), {'__slots__': 'word'})()",
    "type('T', (), {'__eq__': lambda *_: fail(Fault()), '__hash__': None})()",
    "type('T', (), {'__class__': property(lambda self: fail(Fault()))})()",
    "type('T', (), {'__class__': torch.Tensor})()",
    "type('T', (), {'__class__': dict})()",
    "type('T', (), {'__dict__': 3})()",
    "type('T', (), {'__del__': lambda self: None})()",
    "{type('T', (), {'__str__': lambda self: fail(Fault())})(): np.ones(2)}",
    "{'\\udc80': np.ones(2)}",
    "functools.reduce(lambda a, _: [a], range(3000), np.ones(2))",
    "[object() for _ in range(300_000)]",
    "sys.modules",
    "torch",
]
OBJECTS = [  # methods and attributes of its class
    "def __getattribute__(self, name): fail(ValueError(name))",
    "def __getattribute__(self, name): fail(SystemExit(0))",
    "def __getattr__(self, name): fail(Fault(name))",
    "def __getattr__(self, name): fail(ValueError(name))",
    "def __getattr__(self, name): return 3",
    "def __getattr__(self, name): return self",
    "def __getattr__(self, name): return None",
    "def __bool__(self): fail(Fault())",
    "def __len__(self): return 0",
    "def __eq__(self, other): fail(Fault())",
    "__hash__ = None",
    "def __repr__(self): fail(SystemExit(0))",
    "def __iter__(self): fail(SystemExit(0))",
    "def __call__(self, *_): fail(Fault())",
    "def __del__(self): print('PRINTED')",
    "def __dir__(self): fail(Fault())",
    "__class__ = property(lambda self: fail(Fault()))",
    "__class__ = dict",
    "__dict__ = property(lambda self: fail(Fault()))",
    "__dict__ = 3",
    "__module__ = 'no.such.module'",
    "__module__ = 3",
    "__name__ = 3",
    "__slots__ = ()",
    "__doc__ = 3",
    "text = 3",
    "text = property(lambda self: fail(SystemExit(0)))",
    "layers = property(lambda self: fail(SystemExit(0)))",
    "layers = 3",
    "prefix = 'x'",
    "transform = 3",
    "transform = None",
    "transform = property(lambda self: fail(Fault()))",
    "name = property(lambda self: fail(AttributeError('no')))",
    "device = property(lambda self: fail(SystemExit(0)))",
    "files = property(lambda self: fail(Fault()))",
    "logit_scale = property(lambda self: fail(StopIteration()))",
    "untrained = 3",
    "dim = -1",
    "half = float = eval = 3",
]
TRANSFORMS = [
    (ANY, "np.asarray(i)"),  # of several shapes
    (ANY, "torch.tensor(np.asarray(i)).float()"),
    (OK, "torch.tensor(np.asarray(i.resize((8, 8)))).float().requires_grad_()"),
    (OK, "np.asarray(i.resize((8, 8)))"),
    (OK, "i.copy()"),
    (OK, "np.asarray(i.resize((8, 8))).astype('>f4')"),
    (OK, "np.asarray(i.resize((8, 8)))[::-1]"),
    (OK, "torch.tensor(np.asarray(i.resize((8, 8)))).to_sparse().to_dense()"),
    (ANY, "np.asarray(i.resize((8, 8))).tolist()"),
    (ERROR, "None"),
    (ERROR, "3"),
    (ERROR, "'text'"),
    (ERROR, "torch.zeros(8, 8, 3, device='meta')"),
    (ERROR, "np.array([None, 'x'])"),
    (ERROR, "np.array(['x'])"),
    (ERROR, "fail(SystemExit(0))"),
    (ERROR, "fail(Fault())"),
    (ERROR, "fail(GeneratorExit())"),
    (ERROR, "fail(StopIteration())"),
    (ERROR, "fail(Mute())"),
    (ERROR, "fail(UnicodeDecodeError('utf-8', b'x', 0, 1, 'no'))"),
    (ANY, "torch.tensor(np.asarray(i.resize((8, 8)))).to_sparse()"),
]
METHODS = [  # in place of the method `image`
    (OK, "Own.image = staticmethod(lambda images: rows(images))"),
    (OK, "Own.image = classmethod(lambda cls, images: rows(images))"),
    (OK, "Own.image = property(lambda self: rows)"),
    (OK, "Own.image = functools.partialmethod(Own.image)"),
    (ERROR, "Own.image = functools.cache(Own.image)"),  # a list has no hash
    (ERROR, "Own.image = None"),
    (ERROR, "Own.image = 3"),
    (ERROR, "Own.image = lambda self: 3"),
    (ERROR, "Own.image = lambda self, a, b: 3"),
    (ERROR, "Own.image = type('T', (), {})"),
    (ERROR, "Own.image = property(lambda self: fail(SystemExit(0)))"),
    (ERROR, "Own.image = property(lambda self: fail(Fault()))"),
    (ERROR, "del Own.image"),
    (ERROR, "async def image(self, images): return rows(images)\nOwn.image = image"),
    (ERROR, "def image(self, images): yield from rows(images)\nOwn.image = image"),
    (ERROR, "def image(self, images): return self.image(images)\nOwn.image = image"),
    (ERROR, "Own.image = unittest.mock.Mock()"),
    (ERROR, "Own = 3"),
]
MAKES = [  # at the end of the file
    (OK, "make = Own"),
    (OK, "make = functools.partial(Own)"),
    (OK, "make = lambda: sys.modules[Own.__module__]\ndef image(images): return rows(images)"),
    (OK, "make = lambda seed=None: types.SimpleNamespace(image=rows)"),
    (OK, "class Net(torch.nn.Module):\n    image = staticmethod(rows)\nmake = Net"),
    (ANY, "make = unittest.mock.Mock(return_value=Own())"),
    (ERROR, "make = 3"),
    (ERROR, "make = None"),
    (ERROR, "del make"),
    (ERROR, "make = lambda: None"),
    (ERROR, "make = lambda: Own"),
    (ERROR, "make = lambda: {'image': rows}"),
    (ERROR, "make = lambda a, b: Own()"),
    (ERROR, "make = unittest.mock.Mock()"),
    (ERROR, "async def make(): return Own()"),
    (ERROR, "def make(): yield Own()"),
    (ERROR, "make = type('T', (), {'__call__': lambda self: fail(SystemExit(0))})()"),
    (ERROR, "make = type('T', (), {'__getattribute__': lambda *_: fail(ValueError())})()"),
    (
        ERROR,
        "class Meta(type):\n    def __call__(cls): fail(Fault())\nclass make(metaclass=Meta): 0",
    ),
    (ANY, "make.__signature__ = 3"),
    (ANY, "__file__ = 3"),
    (ANY, "__name__ = None"),
    (ANY, "sys.modules.pop(Own.__module__)"),
    (ANY, "os.remove(__file__)"),
    (ANY, "open(__file__, 'a').write('# more')"),
    (ANY, "sys.modules['odd'] = 3"),
    (ANY, "sys.modules['odd'] = type('T', (), {'__getattr__': lambda *_: fail(Fault())})()"),
    (ANY, "def __getattr__(name): fail(Fault())"),
]
MODULES = [  # at the start of the file
    (OK, "\ufeff# a byte order mark"),
    (OK, "from __future__ import annotations"),
    (OK, "import helper"),
    (OK, "import sys; sys.path.append('elsewhere')"),
    (ERROR, "import no_such_module"),
    (ERROR, "import broken_helper"),
    (ERROR, "import exiting_helper"),
    (ERROR, "from . import helper"),
    (ERROR, "def broken(:"),
    (ERROR, "\tindented"),
    (ERROR, "'\\N{no such character}'"),
    (ERROR, "# coding: no-such-coding"),
    (ERROR, "x = '\0'"),
    (ERROR, "(" * 300),
    (ERROR, "1 / 0"),
    (ERROR, "import sys; sys.exit()"),
    (ERROR, "raise GeneratorExit"),
    (ERROR, "def f(): f()\nf()"),
]
FOLDER = {  # files beside own.py
    "helper.py": "print('PRINTED')\nSCALE = 3\n",
    "broken_helper.py": "1 / 0\n",
    "exiting_helper.py": "raise SystemExit(0)\n",
}


class Trick(NamedTuple):
    """Code that goes to a place of the template, and how a run with it ends."""

    place: str
    code: str
    end: str


def _in(place: str, end: str, *codes: str) -> list[Trick]:
    return [Trick(place, code, end) for code in codes]


def _in_turn(places: tuple[str, ...], end: str, codes: list[str]) -> list[Trick]:
    """Put the codes in one place after another."""
    return [Trick(places[n % len(places)], code, end) for n, code in enumerate(codes)]


def _ending(place: str, codes: list[tuple[str, str]]) -> list[Trick]:
    return [Trick(place, code, end) for end, code in codes]


TRICKS = [
    *_in("after", OK, *BUFFERS),
    *_in("value", OK, *RETURNED),
    *_in("value", ERROR, *REFUSED),
    *_in("value", ANY, "e[::-1]", "e + 100 * len(e) if len(e) > 1 else e"),
    *_in("after", ERROR, *LATE),
    *_in_turn(
        ("before_class", "init", "before", "making"), ERROR, [f"fail({error})" for error in ERRORS]
    ),
    *_in_turn(("before", "end", "init", "making"), OK, PRINTS),
    *_in("after", ANY, *ARGUMENTS),
    *_in_turn(("before", "end"), ANY, SURROUNDINGS),
    *_in("attributes", ANY, *(f"name = {value}" for value in NAMES)),
    *_in("attributes", ANY, *(f"logit_scale = {value}" for value in SCALES)),
    *_in("attributes", ANY, *(f"device = {value}" for value in DEVICES)),
    *_in("attributes", ANY, *(f"files = {value}" for value in FILES)),
    *_in("init", ANY, *(f"self.held = {value}" for value in HELD)),
    *_in("attributes", ANY, *OBJECTS),
    *_ending(
        "attributes", [(end, f"transform = lambda self, i: {code}") for end, code in TRANSFORMS]
    ),
    *_ending("after_class", METHODS),
    *_ending("end", MAKES),
    *_ending("module", MODULES),
]


def draw(rng: random.Random) -> list[Trick]:
    """Draw one to three tricks in different places."""
    drawn = rng.sample(TRICKS, rng.choice((1, 1, 2, 3)))
    return list({trick.place: trick for trick in drawn}.values())


def code_of(tricks: list[Trick]) -> str:
    """Return the code of an encoder with tricks in different places."""
    return TEMPLATE.format(**DEFAULTS | {trick.place: trick.code for trick in tricks})


def end_of(tricks: list[Trick]) -> str:
    """Return how a run ends: beside another trick, an error may not be reached, or a row right."""
    return tricks[0].end if len(tricks) == 1 else ANY


def write_folder(folder: Path) -> dict[str, np.ndarray]:
    """Write what encoders open, and images of many colours: return the mean of each."""
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir(parents=True)
    (folder / "elsewhere").mkdir()
    np.save(folder / "weights.npy", np.ones(3))
    for name, code in FOLDER.items():
        (folder / name).write_text(code)
    means = {}
    for number, colour in enumerate(rng.integers(20, 235, (IMAGES, 3))):
        pixels = np.clip(colour + rng.integers(-20, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"pictures/{number}.png")
        means[f"{number}.png"] = pixels.mean((0, 1))
    return means
