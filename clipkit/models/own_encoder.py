"""One's own encoder: an object of the user's Python code in place of a model that clipkit reads.

The code runs only because the user names its file, as ``python:FILE.py:make``, or gives the object
in Python. No model's folder and no feature file can name it.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from clipkit.base import console, user_code
from clipkit.base.errors import ClipkitError, UsageError, unknown
from clipkit.features.history import check_scale, drop_none
from clipkit.models import own_digest
from clipkit.models.hub import combine_digests, is_python, parse_python
from clipkit.models.libraries import OUT_OF_MEMORY, named
from clipkit.models.options import RunOptions, check_taken
from clipkit.models.preprocessing import Preprocessor
from clipkit.models.tokenizer import TextTokenizer
from clipkit.models.towers import Enough, Stack, TowerName, choose_layers
from clipkit.prompts.texts import MAX_CHARACTERS

LIBRARY = "own encoder"
WHAT = {"image": "images", "text": "texts"}
# The settings of each tower; the Python code decides the others
TAKEN = {"image": ("untrained", "layers", "pool", "norm"), "text": ("untrained",)}
HINT = "its Python code decides that"
CHECKED_SIZES = ((200, 150), (160, 224))  # pixels (width, height) of the first images


def is_own(source: object) -> bool:
    """Whether a model is given by its Python code, or as an object, and not by a model's name."""
    return not isinstance(source, str) or is_python(source)


def load(source: Any, tower: TowerName, options: RunOptions) -> dict[str, Any]:
    """Return the fields of an `Encoder` that runs user code.

    `source` is ``python:FILE.py:make``, or in Python that function or what it returns.
    """
    _check_options(options, tower)
    with own_digest.Recorder() as recorder:
        make, file, name = _find_function(source)
        with named(name):
            own = Own(_make(make, options.untrained, file), name, file)
    with named(name), own.guard(f"load {name}"):
        method = own.get(tower)
        if not callable(method):
            raise UsageError(f"expected an encoder with {tower}({WHAT[tower]}), got one without")
        files = own.get("files", ())
        with own.guard("digest its files and weights"):
            parts = own_digest.parts(own.value, files, file, recorder.opened)
        scale = own.get("logit_scale")
        if scale is not None:
            with own.guard("read logit_scale"):
                scale = float(scale)
            check_scale("logit_scale", scale)
        device = _device(own)
        called = str(own.get("name", name))
        called.encode()  # half a surrogate pair is no text
        known = {
            "name": called,
            "library": LIBRARY,
            "python": source if isinstance(source, str) else name,
            "digest": combine_digests(parts),
            "weights": parts.get("weights"),
            "tower": tower,
            "device": device.type,
            "logit_scale": scale,
            "untrained": options.untrained,
        }
        run: Any = OwnTower(own, method, WHAT[tower])
        if options.layers is not None:
            stack = _stack(own)
            run = choose_layers(
                run, stack, tower, options.layers, pool=options.pool, norm=options.norm
            )
    details = {**drop_none(known), "dim": None}  # an embedding tells
    fields = {"details": details, "parts": parts, "_tower": run, "_device": device}
    if tower == "text":
        return {**fields, "_tokenizer": OwnTexts(details["name"])}
    transform = own.get("transform")
    if transform is not None:
        transform = own.calling(_owning(transform), f"transform an image for {name}")
    return {**fields, "_preprocessor": OwnPreprocessor(transform, device)}


class Own:
    """The object of a user's code, which is read and called under the guard alone."""

    def __init__(self, value: Any, name: str, file: Path | None) -> None:
        self.value = value
        self.name = name
        self.file = file

    def guard(self, what: str) -> contextlib.AbstractContextManager[None]:
        """Run a step under the guard: `what` says in messages what failed."""
        return user_code.guard(what, self.file)

    def get(self, attribute: str, default: Any = None) -> Any:
        """Return an attribute. A property that fails is an error, also by an AttributeError."""
        with self.guard(f"read {attribute}"):
            try:
                return getattr(self.value, attribute)
            except AttributeError:
                if inspect.getattr_static(self.value, attribute, None) is None:
                    return default
                raise

    def calling(self, function: Callable[[Any], Any], what: str) -> Callable[[Any], Any]:
        """Return a function that calls another one under the guard."""

        def call(argument: Any) -> Any:
            with self.guard(what):
                try:
                    return function(argument)
                except Enough as enough:  # no error: the layers that are needed have run
                    stop = enough
                except RuntimeError as error:
                    if OUT_OF_MEMORY.search(str(error)):
                        raise MemoryError from error
                    raise
            raise stop

        return call


def _owning(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda argument: owned(function(argument))


def owned(value: Any) -> Any:
    """Copy tensors and arrays at once: code may return the same buffer each time."""
    if isinstance(value, torch.Tensor):
        if value.is_meta:
            raise TypeError("expected numbers, got a tensor on the device meta, which has none")
        value = value.detach()
        if value.is_nested:
            return [owned(part) for part in value.unbind()]
        if value.is_quantized:
            value = value.dequantize()
        if value.layout != torch.strided:
            value = value.to_dense()
        return value.clone()
    if isinstance(value, np.ndarray):
        if np.ma.is_masked(value):
            raise TypeError("expected numbers, got an array with masked ones")
        return np.array(value, value.dtype.newbyteorder("="))
    if isinstance(value, list | tuple) and value and all(map(torch.is_tensor, value)):
        return [owned(part) for part in value]
    return value


def _check_options(options: RunOptions, tower: TowerName) -> None:
    """Refuse options that only a model which clipkit reads can follow."""
    what = f"{WHAT[tower]} of one's own encoder"
    if options.device != "auto":
        raise UsageError(f"expected no --device with {what}, got one", HINT)
    check_taken(options, TAKEN[tower], what, HINT)


# ---- The object ----------------------------------------------------------------------------------


def _find_function(source: Any) -> tuple[Callable[..., Any], Path | None, str]:
    """Return the function that makes the encoder, the file with its code, if any, and its name."""
    if isinstance(source, str):
        file, name = parse_python(source)
        return _function_of_file(file, name), file, f"{file.name}:{name}"
    with user_code.guard("read a model", None):
        is_made = _is_encoder(source) and not isinstance(source, type)
        if not is_made and not callable(source):
            raise _no_encoder("a model", source)
        code = type(source) if is_made else source
        name = getattr(code, "__name__", type(code).__name__)
        with contextlib.suppress(TypeError, OSError):  # it was typed into an interpreter
            found = Path(inspect.getsourcefile(code) or "")
            if found.is_file():
                return (lambda: source) if is_made else source, found, f"{found.name}:{name}"
        return (lambda: source) if is_made else source, None, name


def _is_encoder(value: Any) -> bool:
    return callable(getattr(value, "image", None)) or callable(getattr(value, "text", None))


def _function_of_file(file: Path, name: str) -> Callable[..., Any]:
    """Run a Python file, and return one of its functions."""
    module = user_code.load(file)
    with user_code.guard(f"read {name} of {file}", file):
        function = getattr(module, name, None)
    if callable(function):
        return function  # type: ignore[no-any-return]
    known = [key for key, value in vars(module).items() if callable(value)]
    raise unknown(f"function of {file.name}", name, known)


def _make(make: Callable[..., Any], seed: int | None, file: Path | None) -> Any:
    """Call `make()`, or `make(seed)` for an untrained control."""
    arguments = () if seed is None else (seed,)
    call = "make()" if seed is None else "make(seed)"
    with user_code.guard(f"call {call}", file):
        try:
            inspect.signature(make).bind(*arguments)
        except TypeError as error:
            hint = "write: def make(seed=None)"
            raise UsageError(f"cannot call {call}: {error}", hint) from error
        own = make(*arguments)
        if not _is_encoder(own):
            raise _no_encoder(call, own)
    return own


def _no_encoder(what: str, value: Any) -> ClipkitError:
    got = type(value).__name__
    return ClipkitError(
        f"{what}: expected an object with image(pixels) or text(texts), got {got}",
        "docs/encoders.md has examples",
    )


def _stack(own: Own) -> Stack:
    """Return the layers of an encoder: modules that run whenever it encodes."""
    with own.guard("read layers"):
        layers = list(own.get("layers", ()))
        prefix = int(own.get("prefix", 0))
    if not layers or not all(isinstance(layer, torch.nn.Module) for layer in layers):
        raise UsageError(
            "expected an encoder with layers, a list of modules of PyTorch, got one without",
            "leave --layer out",
        )
    return Stack(layers, None, prefix=prefix, has_cls=prefix > 0)


def _device(own: Own) -> torch.device:
    """Return where the encoder takes its pixels: its `device`, or that of its first parameter."""
    device = own.get("device")
    if device is None:
        parameters = [p for module in own_digest.modules(own.value) for p in module.parameters()]
        device = parameters[0].device if parameters else "cpu"
    with own.guard("use its device"):
        found = torch.device(device)
        if found.type == "meta":
            raise ValueError("expected a device that computes, got meta")
        torch.empty(0, device=found)  # refuses one that this machine lacks
        return found


# ---- The towers ----------------------------------------------------------------------------------


class OwnTower:
    """A method of one's own encoder: N images or texts -> embeddings (N, D).

    `what` says in messages what it takes. `unowned` returns what the code does, which may be a
    buffer that it uses again.
    """

    def __init__(self, own: Own, method: Callable[[Any], Any], what: str) -> None:
        self.what = what
        self.width = 0  # of the first batch
        doing = f"encode with {own.name}"
        self.unowned = own.calling(method, doing)
        # what it returns may run the user's code, too
        self.encode = own.calling(lambda batch: self.as_tensor(batch, owned(method(batch))), doing)

    @torch.inference_mode()
    def __call__(self, **inputs: Any) -> torch.Tensor:
        """Encode the only input: (N, D) in float32, of the width of the first batch."""
        (batch,) = inputs.values()
        rows: torch.Tensor = self.encode(batch)
        if rows.ndim != 2 or len(rows) != len(batch) or not rows.shape[1]:
            raise self._misfit(batch, f"the shape {tuple(rows.shape)}")
        self.width = self.width or rows.shape[1]
        if rows.shape[1] != self.width:
            expected = f"expected embeddings of {self.width} numbers, as at first"
            raise ClipkitError(f"{expected}, got {rows.shape[1]}")
        found = rows.float()
        if rows.dtype.itemsize > found.dtype.itemsize:
            self._check_range(rows, found)
        return found

    def as_tensor(self, batch: Sequence[Any], value: Any) -> torch.Tensor:
        """Return real numbers as a tensor."""
        if isinstance(value, list) and value and all(map(torch.is_tensor, value)):
            if len({part.shape for part in value}) > 1:
                raise self._misfit(batch, "tensors of several shapes")
            value = torch.stack(value)
        if isinstance(value, torch.Tensor):
            if value.is_complex() or value.dtype == torch.bool:
                raise self._misfit(batch, str(value.dtype).removeprefix("torch."))
            return value
        try:
            array = np.asarray(value)
        except Exception:  # a ragged list, or an object that refuses to be an array
            raise self._misfit(batch, f"{type(value).__name__} of no array") from None
        if array.dtype.kind not in "fiu":
            kind = type(value).__name__
            raise self._misfit(batch, f"{kind} of {array.dtype}" if array.ndim else kind)
        is_single = array.dtype.kind == "f" and array.dtype.itemsize <= 4
        return torch.from_numpy(array.astype(np.float32 if is_single else np.float64))

    def _check_range(self, rows: torch.Tensor, found: torch.Tensor) -> None:
        """Refuse numbers that float32 cannot hold."""
        is_lost = (found == 0).all(dim=1) & (rows != 0).any(dim=1)
        is_beyond = found.isinf() & rows.isfinite()
        if bool(is_lost.any()) or bool(is_beyond.any()):
            raise ClipkitError(
                f"expected numbers that float32 holds for {self.what}, got some as small or large "
                f"as {rows.abs().max().item():.2g}",
                "scale them",
            )

    def _misfit(self, batch: Sequence[Any], got: str) -> ClipkitError:
        count = console.count(len(batch), self.what.removesuffix("s"))
        return ClipkitError(f"expected numbers ({len(batch)}, D) for {count}, got {got}")


class OwnPreprocessor(Preprocessor):
    """Prepares images by one's own transform: an image -> a tensor or an array.

    Those of a batch are stacked. Without a transform, the encoder takes a list of images.
    """

    def __init__(self, transform: Callable[[Image.Image], Any] | None, device: torch.device):
        super().__init__(device, torch.float32)
        self.transform = transform

    def resize_and_crop(self, images: Sequence[Image.Image]) -> dict[str, Any]:
        """Transform B images of any sizes in a thread."""
        converted: list[Any] = [image.convert("RGB") for image in images]
        if self.transform is not None:
            converted = [self.transform(image) for image in converted]
        return {"images": _stack_equal(converted)}

    def examples(self) -> list[Image.Image]:
        """Return two images of noise of different sizes."""
        return noise_images()

    def _move(self, value: Any) -> Any:
        return value.to(self.device) if isinstance(value, torch.Tensor) else value

    def details(self) -> dict[str, Any]:
        """Return nothing: the digest of the Python file stands for the transform."""
        return {}


def noise_images() -> list[Image.Image]:
    """Return a wide and a tall image of noise."""
    generator = np.random.default_rng(0)
    images = []
    for width, height in CHECKED_SIZES:
        pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
        images.append(Image.fromarray(pixels))
    return images


def _stack_equal(values: list[Any]) -> Any:
    """Return tensors or arrays as one tensor (B, ...), and anything else as it is."""
    if not all(isinstance(value, torch.Tensor | np.ndarray) for value in values):
        return values
    tensors = [torch.as_tensor(value) for value in values]
    shapes = sorted({tuple(tensor.shape) for tensor in tensors})
    if len(shapes) > 1:
        got = f"{shapes[0]} and {shapes[1]}"
        raise ClipkitError(
            f"expected a transform that gives all images one shape, got {got}",
            "encode images one by one: -b 1",
        )
    return torch.stack(tensors)


class OwnTexts(TextTokenizer):
    """Passes texts on to one's own encoder, which tokenizes and cuts them."""

    cleaning = None
    context_length = MAX_CHARACTERS
    tokenizer = None

    def __init__(self, name: str) -> None:
        self.name = name

    def clean(self, texts: Sequence[str], places: Sequence[str]) -> list[str]:
        """Return the texts."""
        return list(texts)

    def lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Return 1 for each text: only the encoder knows its tokens."""
        return np.ones(len(texts), np.int64)

    def tokens(self, texts: Sequence[str]) -> torch.Tensor:
        """Refuse to tokenize."""
        raise NotImplementedError("expected the encoder's own code to tokenize")

    def inputs(self, texts: Sequence[str]) -> dict[str, Any]:
        """Return the texts."""
        return {"texts": list(texts)}
