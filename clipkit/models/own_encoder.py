"""One's own encoder: an object of the user's Python code in place of a model that clipkit reads.

The code runs only because the user names its file, as ``python:FILE.py:make``, or gives the object
in Python. No model's folder and no feature file can name it.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from clipkit.base import own_code
from clipkit.base.errors import ClipkitError, UsageError, unknown
from clipkit.features.history import check_scale, drop_none
from clipkit.models.hub import combine_digests, is_python, parse_python
from clipkit.models.libraries import named
from clipkit.models.options import RunOptions, check_taken
from clipkit.models.preprocessing import Preprocessor
from clipkit.models.tokenizer import TextTokenizer
from clipkit.models.towers import Stack, TowerName, choose_layers
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
    """Return the fields of an `Encoder` that runs one's own code.

    `source` is ``python:FILE.py:make``, or in Python that function or what it returns.
    """
    _check_options(options, tower)
    make, file, name = _find_function(source)
    with named(name):
        own = _make(make, options.untrained, file)
        method = getattr(own, tower, None)
        if not callable(method):
            raise UsageError(f"expected an encoder with {tower}({WHAT[tower]}), got one without")
        parts = _digest_parts(own, file)
        scale = getattr(own, "logit_scale", None)
        if scale is not None:
            check_scale("logit_scale", scale := float(scale))
        device = _device(own)
        known = {
            "name": str(getattr(own, "name", name)),
            "library": LIBRARY,
            "python": source if isinstance(source, str) else name,
            "digest": combine_digests(parts),
            "weights": parts["weights"],
            "tower": tower,
            "device": device.type,
            "logit_scale": scale,
            "untrained": options.untrained,
        }
        run: Any = OwnTower(method, WHAT[tower])
        if options.layers is not None:
            stack = _stack(own)
            run = choose_layers(run, stack, tower, options)
    details = {**drop_none(known), "dim": None}  # an embedding tells
    fields = {"details": details, "parts": parts, "_tower": run, "_device": device}
    if tower == "text":
        return {**fields, "_tokenizer": OwnTexts(details["name"])}
    return {**fields, "_preprocessor": OwnPreprocessor(getattr(own, "transform", None), device)}


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
    module = own_code.load(file)
    function = getattr(module, name, None)
    if callable(function):
        return function  # type: ignore[no-any-return]
    known = [key for key, value in vars(module).items() if callable(value)]
    raise unknown(f"function of {file.name}", name, known)


def _prints_to_stderr() -> contextlib.AbstractContextManager[Any]:
    """Keep what the user's code prints from standard output, which may be a feature file."""
    return contextlib.redirect_stdout(sys.stderr)


def _make(make: Callable[..., Any], seed: int | None, file: Path | None) -> Any:
    """Call `make()`, or `make(seed)` for an untrained control."""
    arguments = () if seed is None else (seed,)
    call = "make()" if seed is None else "make(seed)"
    try:
        inspect.signature(make).bind(*arguments)
    except TypeError as error:
        hint = "write: def make(seed=None)"
        raise UsageError(f"cannot call {call}: {error}", hint) from error
    with own_code.border(f"call {call}", file):
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


def _stack(own: Any) -> Stack:
    """Return the layers of an encoder: modules that run whenever it encodes."""
    layers = list(getattr(own, "layers", ()))
    if not layers or not all(isinstance(layer, torch.nn.Module) for layer in layers):
        raise UsageError(
            "expected an encoder with layers, a list of modules of PyTorch, got one without",
            "leave --layer out",
        )
    prefix = int(getattr(own, "prefix", 0))
    return Stack(layers, None, prefix=prefix, has_cls=prefix > 0)


def _modules(own: Any) -> list[torch.nn.Module]:
    """Return the modules of PyTorch that an object is or has."""
    if isinstance(own, torch.nn.Module):
        return [own]
    values = getattr(own, "__dict__", {}).values()
    return [value for value in values if isinstance(value, torch.nn.Module)]


def _device(own: Any) -> torch.device:
    """Return where the encoder takes its pixels: its `device`, or that of its first parameter."""
    device = getattr(own, "device", None)
    if device is None:
        for module in _modules(own):
            for parameter in module.parameters():
                return parameter.device
    return torch.device(device or "cpu")


# ---- Digests -------------------------------------------------------------------------------------


def _digest_parts(own: Any, file: Path | None) -> dict[str, str]:
    """Return the digests of the Python file, of all `files` and folders, and of the weights."""
    parts = {}
    if file is not None:
        parts[file.name] = _digest_file(file)
    for name in getattr(own, "files", ()):
        path = Path(name).expanduser().resolve()
        inside = filter(Path.is_file, sorted(path.rglob("*"))) if path.is_dir() else [path]
        for one in inside:
            parts[str(one.relative_to(path.parent))] = _digest_file(one)
    return {**parts, "weights": _digest_weights(_modules(own))}


def _digest_file(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
    except OSError as error:
        raise ClipkitError(f"files: cannot read {path}: {error.strerror}") from None


def _digest_weights(modules: Iterable[torch.nn.Module]) -> str:
    """Return the digest of all tensors of modules, in the order of their names."""
    sha = hashlib.sha256()
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            for tensor in _plain_tensors(value):
                sha.update(f"\0{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
                flat = tensor.detach().cpu().contiguous().reshape(-1)
                sha.update(flat.view(torch.uint8).numpy().data)
    return f"sha256:{sha.hexdigest()}"


def _plain_tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of plain numbers that a tensor is made of, if it is quantised."""
    if isinstance(value, tuple):  # of a module of torch.ao
        for part in value:
            yield from _plain_tensors(part)
    elif hasattr(value, "__tensor_flatten__"):  # a tensor of torchao, by PyTorch's protocol
        for name in value.__tensor_flatten__()[0]:
            yield from _plain_tensors(getattr(value, name))
    elif isinstance(value, torch.Tensor):
        yield value.int_repr() if value.is_quantized else value


# ---- The towers ----------------------------------------------------------------------------------


class OwnTower:
    """A method of one's own encoder: N images or texts -> embeddings (N, D).

    `what` says in messages what it takes.
    """

    def __init__(self, method: Callable[[Any], Any], what: str) -> None:
        self.method = method
        self.what = what

    @torch.inference_mode()
    def __call__(self, **inputs: Any) -> torch.Tensor:
        """Encode the only input."""
        (batch,) = inputs.values()
        with _prints_to_stderr():
            rows = self.method(batch)
        if not isinstance(rows, torch.Tensor):
            array = np.asarray(rows)
            if array.dtype.kind not in "fiu":
                raise self._misfit(batch, type(rows).__name__)
            rows = torch.from_numpy(array)
        if rows.ndim != 2 or len(rows) != len(batch):
            raise self._misfit(batch, f"the shape {tuple(rows.shape)}")
        return rows

    def _misfit(self, batch: Sequence[Any], got: str) -> ClipkitError:
        count = len(batch)
        return ClipkitError(f"expected numbers ({count}, D) for {count} {self.what}, got {got}")


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
        generator = np.random.default_rng(0)
        images = []
        for width, height in CHECKED_SIZES:
            pixels = generator.integers(0, 256, (height, width, 3), np.uint8)
            images.append(Image.fromarray(pixels))
        return images

    def _move(self, value: Any) -> Any:
        return value.to(self.device) if isinstance(value, torch.Tensor) else value

    def details(self) -> dict[str, Any]:
        """Return nothing: the digest of the Python file stands for the transform."""
        return {}


def _stack_equal(values: list[Any]) -> Any:
    """Return tensors or arrays as one tensor (B, ...), and anything else as it is."""
    if not all(isinstance(value, torch.Tensor | np.ndarray) for value in values):
        return values
    tensors = [torch.as_tensor(value) for value in values]
    shapes = sorted({tuple(tensor.shape) for tensor in tensors})
    if len(shapes) > 1:
        raise ClipkitError(
            f"expected a transform that gives all images one shape, got {shapes[0]} and {shapes[1]}"
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
