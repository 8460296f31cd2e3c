"""Images -> pixels, as a model's own processor makes them: in batches, in two steps, in the place that suits each.

Resizing and cropping give bytes; that is done where images are decoded, in threads. Rescaling and normalising make
floats of four times the size; that is done where the model runs. The operations are the processor's own, so that the
result is too, to the last bit (on a GPU, bytes that are resized there may differ by one).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

PROCESSORS = {
    "CLIPImageProcessor",
    "CLIPImageProcessorFast",
    "SiglipImageProcessor",
    "SiglipImageProcessorFast",
}
INTERPOLATION = {2: "bilinear", 3: "bicubic"}  # by Pillow's numbers
CACHED = 8  # images whose floats stay in the processor's cache between one step and the next


class Pixels:
    """What goes before an image tower.

    Parameters
    ----------
    processor : transformers image processor
    device : torch.device
        Where the model runs.
    dtype : torch.dtype
        What it computes in.
    """

    def __init__(self, processor: Any, device: torch.device, dtype: torch.dtype) -> None:
        self.processor, self.device, self.dtype = processor, device, dtype
        self.plain = _plain(processor)
        if self.plain:
            size, crop = dict(processor.size), dict(processor.crop_size or {})
            edge = size.get("shortest_edge")
            self.size = [edge] if edge else [size["height"], size["width"]]
            self.crop = [crop["height"], crop["width"]] if processor.do_center_crop else None
            self.interpolation = InterpolationMode(INTERPOLATION[int(processor.resample)])
            scale = 1.0 / processor.rescale_factor
            self.mean = (torch.tensor(processor.image_mean) * scale).view(-1, 1, 1).to(device)
            self.std = (torch.tensor(processor.image_std) * scale).view(-1, 1, 1).to(device)

    def prepare(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """RGB images (B) of any sizes -> (B, 3, H, W) uint8, resized and cropped; in any thread.

        On a GPU, images of one size that is smaller than the model's are left as they are: it resizes them itself.
        Another processor than CLIP's and SigLIP's is asked for all of its work; the result is then float32.
        """
        if not self.plain:
            found: torch.Tensor = self.processor(images=list(images), return_tensors="pt")[
                "pixel_values"
            ]
            return found
        by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, image in enumerate(images):
            by_size[image.size].append(i)
        groups = [(rows, _stacked([images[i] for i in rows])) for rows in by_size.values()]
        if self.device.type != "cuda":
            return _joined([(rows, self._resized(group)) for rows, group in groups])
        if len(groups) > 1 or groups[0][1][0].numel() > 3 * self.size[0] * self.size[-1]:
            groups = [(rows, self._resized(group)) for rows, group in groups]
        return _joined(groups).pin_memory()

    def _resized(self, images: torch.Tensor) -> torch.Tensor:
        images = functional.resize(
            images, self._target(images), interpolation=self.interpolation, antialias=True
        )
        return images if self.crop is None else functional.center_crop(images, self.crop)

    def _target(self, images: torch.Tensor) -> list[int]:
        """The height and width that images (B, 3, H, W) take before they are cropped: as transformers has it."""
        if len(self.size) == 2:
            return self.size
        height, width = images.shape[-2:]
        short, long = sorted((height, width))
        edges = self.size[0], int(self.size[0] * long / short)
        return list(edges if height <= width else edges[::-1])

    def finish(self, pixels: torch.Tensor) -> torch.Tensor:
        """What `prepare` gave -> (B, 3, H, W) in the model's type, on its device, rescaled and normalised."""
        pixels = pixels.to(self.device, non_blocking=True)
        if pixels.is_floating_point():
            return pixels.to(self.dtype)
        if self.device.type == "cuda" and pixels.shape[-2:] != tuple(self.crop or self.size):
            pixels = self._resized(pixels)
        out = torch.empty(pixels.shape, dtype=self.dtype, device=self.device)
        step = CACHED if self.device.type == "cpu" else len(pixels)
        for at in range(0, len(pixels), step):
            out[at : at + step] = pixels[at : at + step].float().sub_(self.mean).div_(self.std)
        return out


def _plain(processor: Any) -> bool:
    """Whether a processor does what CLIP's and SigLIP's do, by torchvision, and nothing else."""
    size, crop = (
        {key for key, value in dict(getattr(processor, name, None) or {}).items() if value}
        for name in ("size", "crop_size")
    )
    crops = bool(getattr(processor, "do_center_crop", None))
    return (
        type(processor).__name__ in PROCESSORS
        and getattr(processor, "backend", "torchvision") == "torchvision"
        and all(
            getattr(processor, step, False) for step in ("do_resize", "do_rescale", "do_normalize")
        )
        and not getattr(processor, "do_pad", None)
        and getattr(processor, "resample", None) in INTERPOLATION
        and (size == {"height", "width"} or (size == {"shortest_edge"} and crops))
        and (not crops or crop == {"height", "width"})
    )


def _stacked(images: list[Image.Image]) -> torch.Tensor:
    """Images (B) of one size as (B, 3, H, W) uint8."""
    return torch.from_numpy(
        np.stack([np.asarray(image.convert("RGB")) for image in images])
    ).permute(0, 3, 1, 2)


def _joined(groups: list[tuple[list[int], torch.Tensor]]) -> torch.Tensor:
    """Groups of rows as one tensor, each row in its own place."""
    if len(groups) == 1:
        return groups[0][1].contiguous()
    first = groups[0][1]
    out = first.new_empty((sum(len(rows) for rows, _ in groups), *first.shape[1:]))
    for rows, group in groups:
        out[rows] = group
    return out
