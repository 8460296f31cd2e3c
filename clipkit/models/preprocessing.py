"""Preprocess images as a model's own processor does, in two steps.

Images are resized and cropped to bytes where they are decoded, in threads. They are rescaled and
normalised, which makes floats of four times the size, where the model runs. The operations are
those of torchvision, which processors use. This module does not import torchvision, which takes
about as long to import as PyTorch. The result equals the processor's to the last bit, with two
exceptions. A GPU's resizing may differ by one in a byte. The centre crop of CLIP and MetaCLIP 2 is
the one that they were trained with: OpenAI's code and OpenCLIP round the crop's offset (half to
even, by torchvision's `CenterCrop`), while transformers rounds it down. For a quarter of the
lengths of the longer side, the two crops are one pixel apart.
"""

from __future__ import annotations

import platform
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from threadpoolctl import threadpool_limits
from torch.nn import functional

from clipkit.base.errors import ClipkitError
from clipkit.models.folders import processor_hint
from clipkit.models.hub import ModelFiles
from clipkit.models.libraries import import_library, quiet_loading
from clipkit.models.towers import PADDING_MASK

STANDARD_PROCESSORS = {"CLIPImageProcessor", "SiglipImageProcessor"}  # both work in torchvision
INTERPOLATION = {2: "bilinear", 3: "bicubic"}  # by Pillow's numbers
NORMALIZED_AT_ONCE = 8  # images: their floats stay in the processor's cache between the operations
USUAL_SIZE = 224  # pixels
STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
MAX_EDGE = 4096  # pixels of an image's shorter side after resizing
BOTH_EDGES = {"height", "width"}
INPUTS = ("pixel_values", PADDING_MASK, "spatial_shapes")  # of NaFlex
MAX_PATCHES = 2**16  # of an image
Inputs = torch.Tensor | Mapping[str, torch.Tensor]  # of a tower, for B images
_of_thread = threading.local()
SETTINGS = ("size", "crop_size", "resample", "rescale_factor", "image_mean", "image_std")
# The names of CLIP's processor in files, its settings, and others that change no pixel
CLIP_PROCESSORS = ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPFeatureExtractor")
TYPES: dict[str, type] = dict.fromkeys(STEPS, bool)
TYPES |= {"size": dict, "crop_size": dict, "image_mean": list, "image_std": list}
TYPES |= {"resample": int, "rescale_factor": float}
IGNORED = {"image_processor_type", "feature_extractor_type", "processor_class", "do_convert_rgb"}


class Preprocessor(ABC):
    """Prepares images for an image tower, in two steps, and says how for a history.

    The tower runs on `device` and computes in `dtype`. An example image has `edge` pixels a side.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, edge: int = USUAL_SIZE) -> None:
        self.device = device
        self.dtype = dtype
        self.edge = edge

    @abstractmethod
    def resize_and_crop(self, images: Sequence[Image.Image]) -> Inputs:
        """Prepare B images of any sizes in a thread: (B, 3, H, W), or the inputs by name."""

    def normalize(self, pixels: Any) -> Inputs:
        """Finish B images where the model runs, in the form that `resize_and_crop` returned.

        If that has normalised them, they only move to the model, floats in its type.
        """
        if isinstance(pixels, Mapping):
            return {name: self._move(value) for name, value in pixels.items()}
        moved: torch.Tensor = self._move(pixels)
        return moved

    def _move(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        dtype = self.dtype if value.is_floating_point() else value.dtype
        return value.to(self.device, dtype, non_blocking=True)

    @abstractmethod
    def details(self) -> dict[str, Any]:
        """Return the settings that decide the result, in types that JSON has."""

    def example(self) -> Image.Image:
        """Return an image of the size that the model takes."""
        return Image.new("RGB", (self.edge, self.edge), "gray")

    def examples(self) -> list[Image.Image]:
        """Return a square and a tall image, by which a model is checked when it is loaded."""
        tall = Image.linear_gradient("L").resize((self.edge * 2 // 3, self.edge))
        return [self.example(), tall.convert("RGB")]

    def example_size(self) -> tuple[int, ...] | None:
        """Return the size (3, H, W) of the prepared `example`; None if inputs have names."""
        inputs = self.resize_and_crop([self.example()])
        return tuple(inputs.shape[1:]) if isinstance(inputs, torch.Tensor) else None

    def pin(self, pixels: torch.Tensor) -> torch.Tensor:
        """Put pixels where a GPU can fetch them while the threads go on."""
        return pixels.pin_memory() if self.device.type == "cuda" else pixels


class TransformPreprocessor(Preprocessor):
    """Prepares images by a library's own transform: an image -> pixels (3, H, W) in float32.

    `settings` is what a history records of the transform.
    """

    def __init__(
        self,
        transform: Callable[[Image.Image], torch.Tensor],
        settings: dict[str, Any],
        image_size: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(device, dtype, image_size)
        self.transform = transform
        self.settings = settings

    def resize_and_crop(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Transform B images of any sizes: (B, 3, H, W)."""
        _use_one_core()
        return self.pin(torch.stack(list(map(self.transform, _as_rgb(images)))))

    def details(self) -> dict[str, Any]:
        """Return the settings of the transform."""
        return {name: _as_json(value) for name, value in self.settings.items()}


class ImagePreprocessor(Preprocessor):
    """Prepares images for an image tower that runs on a device and computes in a type.

    `is_standard` tells whether the processor only does what CLIP's and SigLIP's do. If it does
    more, `resize_and_crop` leaves all of the work to the processor. `image_size` is None if the
    model takes images of any size. `is_rounded` asks for the centre crop of OpenAI's code.
    """

    def __init__(
        self,
        processor: Any,
        device: torch.device,
        dtype: torch.dtype,
        image_size: int | None,
        is_rounded: bool,
    ) -> None:
        super().__init__(device, dtype, image_size or USUAL_SIZE)
        _check_edges(processor)
        self.processor = processor
        self.image_size = image_size
        self.is_standard = _is_standard(processor)
        self.is_rounded = is_rounded and self.is_standard and processor.do_center_crop
        if not self.is_standard:
            return
        size = dict(processor.size)
        edge = size.get("shortest_edge")
        self.size = [edge] if edge else [size["height"], size["width"]]
        self.output_size = self.size
        if processor.do_center_crop:
            crop = dict(processor.crop_size)
            self.output_size = [crop["height"], crop["width"]]
        self.interpolation = INTERPOLATION[int(processor.resample)]
        # (x * factor - mean) / std = (x - mean / factor) / (std / factor), as transformers has it
        scale = 1.0 / processor.rescale_factor
        self.mean = (torch.tensor(processor.image_mean) * scale).view(-1, 1, 1).to(device)
        self.std = (torch.tensor(processor.image_std) * scale).view(-1, 1, 1).to(device)

    def resize_and_crop(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Resize and crop B images of any sizes, together if all have one size: (B, 3, H, W) uint8.

        A processor that is not standard gives float32. For a GPU, small images of one size keep
        it, and `normalize` resizes them. Safe to call from several threads.
        """
        if not self.is_standard:
            outputs = self.processor(images=_as_rgb(images))["pixel_values"]
            sizes = sorted({_times(np.shape(pixels)) for pixels in outputs})
            if len(sizes) > 1:
                raise ValueError(
                    f"expected one size of all images, got {sizes[0]} and {sizes[-1]}: the aspect "
                    "ratio is kept without a crop"
                )
            return torch.from_numpy(np.stack(outputs))
        if len({image.size for image in images}) > 1:
            pixels = torch.cat([self._resize(_stack([image])) for image in images])
        else:
            pixels = _stack(images)
            if not self._is_left_to_gpu(*pixels.shape[-2:]):
                pixels = self._resize(pixels)
        return self.pin(pixels.contiguous())

    def _is_left_to_gpu(self, height: int, width: int) -> bool:
        is_small = height * width <= self.size[0] * self.size[-1]
        return self.device.type == "cuda" and is_small and [height, width] != self.output_size

    def _resize(self, images: torch.Tensor) -> torch.Tensor:
        """Resize and crop images of one size: (B, 3, h, w) -> (B, 3, H, W)."""
        images = resize(images, self._size_before_crop(*images.shape[-2:]), self.interpolation)
        return center_crop(images, self.output_size, is_rounded=self.is_rounded)

    def _size_before_crop(self, height: int, width: int) -> list[int]:
        """Return the height and width to resize to, rounded as transformers does."""
        if len(self.size) == 2:
            return self.size
        shorter = self.size[0]
        longer = int(shorter * max(height, width) / min(height, width))
        return [shorter, longer] if height <= width else [longer, shorter]

    def normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        """Rescale and normalise pixels (B, 3, H, W) in the model's type, on its device."""
        pixels = pixels.to(self.device, non_blocking=True)
        if self.is_standard and list(pixels.shape[-2:]) != self.output_size:
            pixels = self._resize(pixels)  # on a GPU
        expected = (3, self.image_size, self.image_size)
        if self.image_size and tuple(pixels.shape[1:]) != expected:
            raise ValueError(
                f"expected {_times(expected)} numbers, which the model takes, "
                f"got {_times(pixels.shape[1:])}"
            )
        if not self.is_standard:
            return pixels.to(self.dtype)
        normalized = torch.empty(pixels.shape, dtype=self.dtype, device=self.device)
        step = NORMALIZED_AT_ONCE if self.device.type == "cpu" else len(pixels)
        for start in range(0, len(pixels), step):
            rows = slice(start, start + step)
            normalized[rows] = pixels[rows].float().sub_(self.mean).div_(self.std)
        return normalized

    def example_size(self) -> tuple[int, ...] | None:
        """Return the size (3, H, W) that the model takes."""
        if self.image_size:
            return (3, self.image_size, self.image_size)
        return super().example_size()

    def details(self) -> dict[str, Any]:
        """Return the settings that decide the result, in types that JSON has."""
        more = {}
        if getattr(self.processor, "do_center_crop", None):
            more["crop_offset"] = "rounded" if self.is_rounded else "rounded down"
        return describe_processor(self.processor, **more)


def resize(images: torch.Tensor, size: list[int], interpolation: str) -> torch.Tensor:
    """Resize images to a height and width: (B, 3, h, w) -> (B, 3, H, W), both uint8.

    As in torchvision, the floats of other devices are rounded, and so are bilinear ones where
    PyTorch has no fast operation on bytes.
    """
    if list(images.shape[-2:]) == size:
        return images
    has_bytes = images.device.type == "cpu" and (
        interpolation == "bicubic"
        or torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
        or platform.machine() in ("aarch64", "arm64")
    )
    pixels = images if has_bytes else images.float()
    resized = functional.interpolate(pixels, size, mode=interpolation, antialias=True)
    return resized if has_bytes else resized.clamp_(0, 255).round_().to(torch.uint8)


def center_crop(images: torch.Tensor, size: list[int], *, is_rounded: bool) -> torch.Tensor:
    """Cut the centre out of images, padded with zeros if they are smaller: -> (B, 3, H, W)."""
    margins: list[int] = []  # of left, right, top and bottom; negative ones are cut
    for axis, edge in ((-1, size[1]), (-2, size[0])):
        margin = edge - images.shape[axis]
        before = int(margin / 2)
        if is_rounded and margin < 0:
            before = round(margin / 2)
        margins += (before, margin - before)
    return functional.pad(images, margins) if any(margins) else images


def describe_processor(processor: Any, **more: Any) -> dict[str, Any]:
    """Return the settings of an image processor that decide the result, in types that JSON has."""
    details: dict[str, Any] = {"processor": type(processor).__name__}
    details["backend"] = getattr(processor, "backend", "pil")
    details |= more
    for name in STEPS + SETTINGS:
        value = getattr(processor, name, None)
        if name in ("size", "crop_size") and value is not None:
            value = {edge: pixels for edge, pixels in dict(value).items() if pixels is not None}
        elif name == "resample" and value is not None:
            value = Image.Resampling(value).name.lower()
        details[name] = _as_json(value)
    return details


def _as_json(value: Any) -> Any:
    """Return a setting as a history has it: a list in place of a tuple."""
    return list(value) if isinstance(value, tuple) else value


def _use_one_core() -> None:
    """Let PyTorch use one core in this thread, unless it is the main one.

    Several threads transform images while the model runs. If each spread its small operations over
    all cores, they would mostly wait for each other. OpenMP has a limit for each calling thread.
    """
    if threading.current_thread() is threading.main_thread() or hasattr(_of_thread, "limits"):
        return
    torch.get_num_threads()  # PyTorch sets OpenMP's limit itself when a thread first asks
    _of_thread.limits = threadpool_limits(limits=1, user_api="openmp")


def load_image_processor(files: ModelFiles) -> Any:
    """Load a model's own image processor.

    transformers 5 stores it inside processor_config.json, earlier versions in a separate file.
    """
    processor: dict[str, Any] = {}
    if (files.folder / "processor_config.json").exists():
        processor = files.read_json("processor_config.json")
    settings = processor.get("image_processor")
    if settings is None:
        check_has_processor(files)
        settings = files.read_json("preprocessor_config.json")
    known = CLIPImageProcessor.read_known(settings)
    return library_processor(files) if known is None else known


def library_processor(files: ModelFiles) -> Any:
    """Load a model's own image processor by transformers."""
    with quiet_loading(f"the image processor of {files.name}"), files.side_folder() as folder:
        auto: Any = import_library("transformers").AutoImageProcessor
        return auto.from_pretrained(folder, trust_remote_code=False)


def check_has_processor(files: ModelFiles) -> None:
    """Refuse a folder without a processor, such as a checkpoint of transformers' Trainer."""
    names = ("preprocessor_config.json", "processor_config.json")
    if not any((files.folder / name).exists() for name in names):
        raise ClipkitError(
            f"{files.name}: expected its image processor in {names[0]}, got none",
            processor_hint(files.folder),
        )


class CLIPImageProcessor(SimpleNamespace):
    """The settings of transformers' class of this name, which takes long to import."""

    @classmethod
    def read_known(cls, content: Any) -> CLIPImageProcessor | None:
        """Read settings; return None if transformers has to read them, or to say what is wrong."""
        if not isinstance(content, dict):
            return None
        settings: dict[str, Any] = {"do_rescale": True, "rescale_factor": 1 / 255, **content}
        kind = settings.get("image_processor_type") or settings.get("feature_extractor_type")
        for name, edges in (("size", ("shortest_edge",)), ("crop_size", ("height", "width"))):
            if type(settings.get(name)) is int:  # as OpenAI's models have it
                settings[name] = dict.fromkeys(edges, settings[name])
        types = {name: type(settings[name]) for name in settings.keys() - IGNORED}
        if kind not in CLIP_PROCESSORS or types != TYPES:
            return None
        processor = cls(**settings, backend="torchvision")
        if not _is_standard(processor) or _edges(processor.crop_size) != BOTH_EDGES:
            return None
        return processor


def resize_processor(processor: Any, edge: int) -> None:
    """Let a processor give images of this edge, in pixels, with the same share of a centre crop."""
    names = ["size"]
    if getattr(processor, "do_center_crop", None) and processor.crop_size:
        names.append("crop_size")  # the last one is the size of the images that the model gets
    before = min(pixels for pixels in dict(getattr(processor, names[-1])).values() if pixels)
    for name in names:
        sizes = getattr(processor, name)
        edges = {key: round(old * edge / before) for key, old in dict(sizes).items() if old}
        setattr(processor, name, type(sizes)(**edges))


def _is_standard(processor: Any) -> bool:
    """Return whether a processor resizes, crops, rescales and normalises, and nothing else."""
    if type(processor).__name__ not in STANDARD_PROCESSORS:
        return False
    size = _edges(processor.size)
    is_size_standard = size == BOTH_EDGES
    if processor.do_center_crop:
        is_size_standard = size in (BOTH_EDGES, {"shortest_edge"})
        is_size_standard &= _edges(processor.crop_size) == BOTH_EDGES
    return (
        is_size_standard
        and all(getattr(processor, step) for step in STEPS if step != "do_center_crop")
        and not getattr(processor, "do_pad", None)
        and processor.resample in INTERPOLATION
    )


def _check_edges(processor: Any) -> None:
    """Refuse sizes that would fill the memory."""
    for name in ("size", "crop_size", "pad_size"):
        edges = dict(getattr(processor, name, None) or {})
        for edge, pixels in edges.items():
            if pixels is not None and not 1 <= pixels <= MAX_EDGE:
                raise ValueError(f"expected a {edge} of 1 to {MAX_EDGE} in {name}, got {pixels}")


def _times(shape: Sequence[int | None]) -> str:
    return " x ".join(map(str, shape))


def _edges(size: Any) -> set[str]:
    return {edge for edge, pixels in dict(size or {}).items() if pixels}


def _stack(images: Sequence[Image.Image]) -> torch.Tensor:
    """Stack B images of one size to (B, 3, H, W) uint8."""
    arrays = np.stack(list(map(np.asarray, _as_rgb(images))))
    return torch.from_numpy(arrays).permute(0, 3, 1, 2)


def _as_rgb(images: Sequence[Image.Image]) -> list[Image.Image]:
    return [image.convert("RGB") for image in images]


class NaflexPreprocessor(Preprocessor):
    """Prepares images for SigLIP 2 NaFlex, which sees each image in its own aspect ratio.

    Its processor cuts an image into patches and pads these to one number, so that images of several
    shapes fit into one batch. A mask tells the patches from the padding.
    """

    def __init__(self, processor: Any, device: torch.device, dtype: torch.dtype) -> None:
        if tuple(processor.model_input_names) != INPUTS:
            raise ValueError(f"expected Siglip2ImageProcessor, got {type(processor).__name__}")
        if not 1 <= processor.max_num_patches <= MAX_PATCHES:
            raise ValueError(
                f"expected a max_num_patches of 1 to {MAX_PATCHES}, got {processor.max_num_patches}"
            )
        super().__init__(device, dtype)
        self.processor = processor

    def resize_and_crop(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """Cut B images of any sizes into at most N patches of P x P pixels, in a thread.

        Return ``pixel_values`` (B, N, 3 P P) in float32, ``pixel_attention_mask`` (B, N), and
        ``spatial_shapes`` (B, 2), the rows and columns of each image's patches.
        """
        outputs = self.processor(images=_as_rgb(images), return_tensors="pt")
        return {name: self.pin(outputs[name]) for name in INPUTS}

    def example(self) -> Image.Image:
        """Return an image that is no square, so that all patches and some padding are tried."""
        edge = self.processor.patch_size * int(self.processor.max_num_patches**0.5)
        return Image.new("RGB", (2 * edge, edge), "gray")

    def example_size(self) -> None:
        """Return None: inputs have no single size."""

    def details(self) -> dict[str, Any]:
        """Return the settings that decide the result, in types that JSON has."""
        processor = self.processor
        return describe_processor(
            processor, patch_size=processor.patch_size, max_num_patches=processor.max_num_patches
        )
