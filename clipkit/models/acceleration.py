"""Make an image tower fast: pack its layers for oneDNN, compile it, or return before a GPU is done.

On a CPU with native bfloat16, packed layers are as fast as a compiled tower and need no compiler:
weights are laid out once in the order in which the matrix products read them, and activation and
residual are computed inside the products.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutput

from clipkit import console
from clipkit.models.hub import brief
from clipkit.models.towers import Tower

# By transformers' name: oneDNN's activation and algorithm, and a factor on the activation's input.
# CLIP approximates GELU by x sigmoid(1.702 x), which is swish(1.702 x) / 1.702.
ACTIVATIONS = {
    "quick_gelu": ("swish", "", 1.702),
    "gelu": ("gelu", "none", 1.0),
    "gelu_pytorch_tanh": ("gelu", "tanh", 1.0),
    "relu": ("relu", "", 1.0),
}
# The towers whose layers `PackedLayer` repeats. Others name their layers alike, but pass them more.
PACKABLE = ("clip_vision_model", "siglip_vision_model")
MIN_COSINE = 0.999  # of an embedding by packed layers with that in float32
CHECKED_IMAGES = 2
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
# Number of images from which compiling on a GPU pays: a guess, since no GPU was there to measure.
COMPILE_FROM = 100_000
PACKED_FOR_ROWS = 64 * 50  # oneDNN chooses a layout for a row count: 64 images of 50 tokens


def accelerate(
    tower: Tower,
    device: torch.device,
    dtype: torch.dtype,
    size: Sequence[int],
    compile_for: int,
) -> tuple[Tower, dict[str, bool]]:
    """Move an image tower (float32, on the CPU) to its device and type, compiled or packed.

    It takes images of `size` (3, H, W), and is compiled for batches of exactly `compile_for` images
    unless that is 0 or fails. Return the tower, and for the history ``compile``, and ``packed`` if
    layers were packed.
    """
    if compile_for:
        compiled = compile_tower(tower.model.to(device, dtype), (compile_for, *size))
        if compiled is not None:
            return replace(tower, model=compiled), {"compile": True}
    details = {"compile": False}
    config = getattr(tower.model, "config", None)
    is_known = getattr(config, "model_type", None) in PACKABLE
    if device.type == "cpu" and dtype == torch.bfloat16 and is_known:
        details |= pack_if_equal(tower, config, size)
    tower.model.to(device, dtype)
    return tower, details


@torch.inference_mode()
def pack_if_equal(tower: Tower, config: Any, size: Sequence[int]) -> dict[str, bool]:
    """Pack an image tower's layers in place if that keeps its embeddings.

    Images of noise are embedded by the tower (float32) and by its packed layers. If a cosine is
    below MIN_COSINE, the tower is left as it was, with a note. Return what a history records.
    """
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(CHECKED_IMAGES, *size, generator=generator)
    vision: Any = getattr(tower.model, "vision_model", tower.model)
    layers = vision.encoder
    expected = tower(pixel_values=pixels)
    if not pack_layers(tower.model, config):
        return {}
    tower.model.to(torch.bfloat16)
    embeddings = tower(pixel_values=pixels.to(torch.bfloat16)).float()
    cosine = functional.cosine_similarity(embeddings, expected).min().item()
    if cosine >= MIN_COSINE:
        return {"packed": True}
    vision.encoder = layers
    console.note(
        f"the layers are not packed, since their embeddings would have a cosine of {cosine:.4f} "
        "with those in float32"
    )
    return {}


class PackedLinear:
    """A linear layer in bfloat16 with an activation: x -> activation(x W' + b).

    The weight is (out, in), the bias (out,). `activation` and `algorithm` are oneDNN's names.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor,
        activation: str = "none",
        algorithm: str = "",
    ) -> None:
        rounded = weight.detach().to(torch.bfloat16)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(rounded, PACKED_FOR_ROWS)
        self.bias = bias.detach().to(torch.bfloat16)
        self.activation = activation
        self.algorithm = algorithm

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer: (..., in) -> (..., out)."""
        product: Callable[..., torch.Tensor] = torch.ops.mkldnn._linear_pointwise
        return product(x, self.weight, self.bias, self.activation, [], self.algorithm)

    def add_to(self, residual: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Return residual + x W' + b: (..., out) and (..., in) -> (..., out)."""
        product: Callable[..., torch.Tensor] = torch.ops.mkldnn._linear_pointwise.binary
        return product(x, residual, self.weight, self.bias, "add")


class PackedLayer(torch.nn.Module):
    """One transformer layer in bfloat16: attention and MLP, each with LayerNorm and residual."""

    def __init__(self, layer: Any, activation: str) -> None:
        super().__init__()
        attention = layer.self_attn
        projections = [attention.q_proj, attention.k_proj, attention.v_proj]
        self.qkv = PackedLinear(
            torch.cat([projection.weight for projection in projections]),
            torch.cat([projection.bias for projection in projections]),
        )
        self.heads = attention.num_heads
        self.attention_out = PackedLinear(attention.out_proj.weight, attention.out_proj.bias)
        self.attention_norm = layer.layer_norm1.to(torch.bfloat16)
        self.mlp_norm = layer.layer_norm2.to(torch.bfloat16)
        name, algorithm, factor = ACTIVATIONS[activation]
        fc1 = layer.mlp.fc1
        fc2 = layer.mlp.fc2
        self.mlp_in = PackedLinear(fc1.weight * factor, fc1.bias * factor, name, algorithm)
        self.mlp_out = PackedLinear(fc2.weight / factor, fc2.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer: (B, T, width) -> (B, T, width)."""
        batch, tokens, width = x.shape
        qkv = self.qkv(self.attention_norm(x))  # (B, T, 3 * width)
        qkv = qkv.view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, T, width / heads)
        attended = functional.scaled_dot_product_attention(q, k, v)
        attended = attended.transpose(1, 2).reshape(batch, tokens, width)
        x = self.attention_out.add_to(x, attended)
        return self.mlp_out.add_to(x, self.mlp_in(self.mlp_norm(x)))


class PackedEncoder(torch.nn.Module):
    """Packed layers in the place of a tower's `encoder`."""

    def __init__(self, layers: list[PackedLayer]) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)

    def forward(self, inputs_embeds: torch.Tensor, **_: Any) -> BaseModelOutput:
        """Apply the layers: (B, T, width) -> (B, T, width) as `last_hidden_state`."""
        for layer in self.layers:
            inputs_embeds = layer(inputs_embeds)
        return BaseModelOutput(last_hidden_state=inputs_embeds)


def pack_layers(model: torch.nn.Module, config: Any) -> bool:
    """Pack an image tower's layers in place; return False if PyTorch or oneDNN cannot."""
    vision: Any = getattr(model, "vision_model", model)
    onednn: Any = torch.backends.mkldnn
    if not onednn.is_available() or config.hidden_act not in ACTIVATIONS:
        return False
    try:
        with torch.inference_mode():
            layers = [PackedLayer(layer, config.hidden_act) for layer in vision.encoder.layers]
            encoder = PackedEncoder(layers)
            encoder(torch.zeros(1, 1, config.hidden_size, dtype=torch.bfloat16))
    except (AttributeError, RuntimeError):  # another PyTorch, or a oneDNN without these products
        return False
    vision.encoder = encoder
    return True


def compile_tower(model: torch.nn.Module, shape: Sequence[int]) -> Any:
    """Compile a tower for batches of one shape and run it once; None, with a note, if that fails.

    The compiled code is cached in the folder that TORCHINDUCTOR_CACHE_DIR names, by default
    ``$XDG_CACHE_HOME/clipkit/inductor`` (``~/.cache/clipkit/inductor``).
    """
    weight = next(model.parameters())
    pixels = weight.new_zeros(*shape)
    # Known weights can be packed for oneDNN; PyTorch then caches the code, but not the graph.
    options = {
        "fx_graph_cache": True,
        "freezing": weight.device.type == "cpu",
        "compile_threads": 1,
    }
    try:
        import torch._inductor.config as inductor

        _set_compiler_cache()
        with warnings.catch_warnings(), inductor.patch(options), torch.inference_mode():
            warnings.simplefilter("ignore")
            compiled = torch.compile(model, dynamic=False)
            compiled(pixel_values=pixels)
    except Exception as error:  # of a compiler, of PyTorch, of the cache's file system
        reason = brief(error)
        console.note(f"cannot compile the model, so it runs without compilation: {reason}")
        return None
    return compiled


def _set_compiler_cache() -> None:
    """Choose a lasting cache unless the user named one; PyTorch sets its default on import."""
    from torch._inductor.runtime import runtime_utils

    default: Any = vars(runtime_utils)["default_cache_dir"]
    if os.environ.get(CACHE_VARIABLE) in (None, default()):
        home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        os.environ[CACHE_VARIABLE] = str(home / "clipkit" / "inductor")


def fixed_batches(pixels: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Split pixels (N, 3, H, W) into batches of exactly `size` rows, the last padded with zeros.

    The padding does not change the other rows, since the rows of a batch are independent.
    """
    *whole, last = torch.split(pixels, size)
    missing = size - len(last)
    if missing:
        last = torch.cat([last, last.new_zeros(missing, *last.shape[1:])])
    return [*whole, last]


def should_compile(device: str, images: int) -> bool:
    """Tell whether compiling pays without being asked for: on a GPU with Triton, for many images.

    On a CPU it does not, since packed layers are as fast.
    """
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    return on_gpu and images >= COMPILE_FROM and importlib.util.find_spec("triton") is not None


class AsyncEmbeddings:
    """Embeddings (B, D) that a GPU is still sending. Reading them in numpy waits for them."""

    def __init__(self, embeddings: torch.Tensor) -> None:
        self.rows = embeddings.to("cpu", non_blocking=True)
        cuda: Any = torch.cuda
        self.copied = cuda.Event()
        self.copied.record()

    def __len__(self) -> int:
        return len(self.rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """Wait for the copy, then return the rows as numpy wants them."""
        self.copied.synchronize()
        return np.array(self.rows.numpy(), dtype=dtype, copy=copy)
