"""Make an image tower fast: pack its layers for oneDNN, or return before a GPU is done.

On a CPU with native bfloat16, weights are laid out once in the order in which the matrix products
read them, and activation and residual are computed inside the products.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from clipkit.base import console
from clipkit.base.errors import ClipkitError, unknown
from clipkit.base.files import user_cache
from clipkit.models.hub import check_device
from clipkit.models.towers import Tower

# By transformers' name: oneDNN's activation and algorithm, and a factor on the activation's input.
# CLIP approximates GELU by x sigmoid(1.702 x), which is swish(1.702 x) / 1.702.
ACTIVATIONS = {
    "quick_gelu": ("swish", "", 1.702),
    "gelu": ("gelu", "none", 1.0),
    "gelu_pytorch_tanh": ("gelu", "tanh", 1.0),
    "relu": ("relu", "", 1.0),
}
# `PackedLayer` repeats the layers of these towers. Others of transformers name layers alike, but
# pass them more.
PACKABLE = ("clip_vision_model", "metaclip_2_vision_model", "siglip_vision_model")
# By the name of the module that open_clip puts into a layer: transformers' name of the activation.
OPEN_CLIP_ACTIVATIONS = {"QuickGELU": "quick_gelu", "GELU": "gelu"}
MIN_COSINE = 0.999  # of an embedding by packed layers with that in float32
CHECKED_IMAGES = 2
FEW_TOKENS = 64  # a ViT-B/32 has 50
PACKED_FOR_ROWS = 64 * 50  # oneDNN chooses a layout for a row count: 64 images of 50 tokens


def accelerate(
    tower: Tower,
    device: torch.device,
    dtype: torch.dtype,
    size: Sequence[int] | None,
) -> dict[str, bool]:
    """Move an image tower (float32, on the CPU) to its device and type, and pack it if that helps.

    It takes images of `size` (3, H, W). Without a `size`, as inputs have several shapes or the kind
    of model is not tested, it is not packed. Return what a history records: ``packed`` if layers
    were packed.
    """
    details = {}
    if size is not None and device.type == "cpu" and dtype == torch.bfloat16:
        details = pack_if_equal(tower, size)
    tower.model.to(device, dtype)
    return details


@torch.inference_mode()
def pack_if_equal(tower: Tower, size: Sequence[int]) -> dict[str, bool]:
    """Pack an image tower's layers in place if that keeps its embeddings.

    Images of noise are embedded by the tower (float32) and by its packed layers. If a cosine is
    below MIN_COSINE, the tower is left as it was, with a note. Return what a history records.
    """
    layers = read_layers(tower.model)
    if layers is None:
        return {}
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(CHECKED_IMAGES, *size, generator=generator)
    expected = tower(pixel_values=pixels)
    packed = pack_layers(layers)
    if packed is None:
        return {}
    plain = getattr(layers.owner, layers.name)
    setattr(layers.owner, layers.name, packed)
    patches = _pack_patches(layers)
    tower.model.to(torch.bfloat16)
    embeddings = tower(pixel_values=pixels.to(torch.bfloat16)).float()
    cosine = functional.cosine_similarity(embeddings, expected).min().item()
    if cosine >= MIN_COSINE:
        return {"packed": True}
    setattr(layers.owner, layers.name, plain)
    setattr(*layers.patches, patches)
    console.note(
        f"the layers are not packed, since their embeddings would have a cosine of {cosine:.4f} "
        "with those in float32"
    )
    return {}


@dataclass(frozen=True)
class LayerWeights:
    """One transformer layer, whichever library it belongs to: attention, then a MLP.

    Each has a LayerNorm before it and a residual around it. `qkv_weights` and `qkv_biases`, put
    together, project to queries, keys and values. `activation` is one of ACTIVATIONS.
    """

    attention_norm: torch.nn.Module
    qkv_weights: list[torch.Tensor]
    qkv_biases: list[torch.Tensor]
    heads: int
    attention_out: torch.nn.Linear
    mlp_norm: torch.nn.Module
    mlp_in: torch.nn.Linear
    activation: str
    mlp_out: torch.nn.Linear


@dataclass(frozen=True)
class TowerLayers:
    """All layers of an image tower, and the attribute `owner.name` that holds and runs them.

    `encoder` is the class that runs packed ones in its place. `patches` are the owner and the name
    of the convolution that embeds patches.
    """

    owner: Any
    name: str
    layers: list[LayerWeights]
    encoder: Callable[[list[PackedLayer]], torch.nn.Module]
    patches: tuple[Any, str]


def read_layers(model: Any) -> TowerLayers | None:
    """Describe an image tower's layers; return None if `PackedLayer` cannot compute them."""
    config: Any = getattr(model, "config", None)
    if getattr(config, "model_type", None) in PACKABLE and config.hidden_act in ACTIVATIONS:
        return _read_transformers(getattr(model, "vision_model", model), config.hidden_act)
    transformer = getattr(getattr(model, "visual", None), "transformer", None)
    if transformer is not None and all(map(_is_open_clip_layer, transformer.resblocks)):
        return _read_open_clip(model.visual)
    return None


def _read_transformers(vision: Any, activation: str) -> TowerLayers:
    layers = []
    for layer in vision.encoder.layers:
        attention = layer.self_attn
        projections = [attention.q_proj, attention.k_proj, attention.v_proj]
        weights = LayerWeights(
            attention_norm=layer.layer_norm1,
            qkv_weights=[projection.weight for projection in projections],
            qkv_biases=[projection.bias for projection in projections],
            heads=attention.num_heads,
            attention_out=attention.out_proj,
            mlp_norm=layer.layer_norm2,
            mlp_in=layer.mlp.fc1,
            activation=activation,
            mlp_out=layer.mlp.fc2,
        )
        layers.append(weights)
    patches = (vision.embeddings, "patch_embedding")
    return TowerLayers(vision, "encoder", layers, PackedEncoder, patches)


def _is_open_clip_layer(block: Any) -> bool:
    """Return whether a layer is open_clip's plain one, without scales, of a known activation."""
    return (
        type(block).__name__ == "ResidualAttentionBlock"
        and isinstance(block.ls_1, torch.nn.Identity)
        and isinstance(block.ls_2, torch.nn.Identity)
        and type(block.mlp.gelu).__name__ in OPEN_CLIP_ACTIVATIONS
        and getattr(block.mlp.gelu, "approximate", "none") == "none"
    )


def _read_open_clip(visual: Any) -> TowerLayers:
    layers = []
    for block in visual.transformer.resblocks:
        weights = LayerWeights(
            attention_norm=block.ln_1,
            qkv_weights=[block.attn.in_proj_weight],
            qkv_biases=[block.attn.in_proj_bias],
            heads=block.attn.num_heads,
            attention_out=block.attn.out_proj,
            mlp_norm=block.ln_2,
            mlp_in=block.mlp.c_fc,
            activation=OPEN_CLIP_ACTIVATIONS[type(block.mlp.gelu).__name__],
            mlp_out=block.mlp.c_proj,
        )
        layers.append(weights)
    return TowerLayers(visual, "transformer", layers, PackedTransformer, (visual, "conv1"))


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

    def __init__(self, layer: LayerWeights) -> None:
        super().__init__()
        self.qkv = PackedLinear(torch.cat(layer.qkv_weights), torch.cat(layer.qkv_biases))
        self.heads = layer.heads
        self.attention_out = PackedLinear(layer.attention_out.weight, layer.attention_out.bias)
        self.attention_norm = layer.attention_norm.to(torch.bfloat16)
        self.mlp_norm = layer.mlp_norm.to(torch.bfloat16)
        name, algorithm, factor = ACTIVATIONS[layer.activation]
        fc1 = layer.mlp_in
        fc2 = layer.mlp_out
        self.mlp_in = PackedLinear(fc1.weight * factor, fc1.bias * factor, name, algorithm)
        self.mlp_out = PackedLinear(fc2.weight / factor, fc2.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer: (B, T, width) -> (B, T, width)."""
        batch, tokens, width = x.shape
        qkv = self.qkv(self.attention_norm(x))  # (B, T, 3 * width)
        qkv = qkv.view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, T, width / heads)
        attended = _attend(q, k, v)
        attended = attended.transpose(1, 2).reshape(batch, tokens, width)
        x = self.attention_out.add_to(x, attended)
        return self.mlp_out.add_to(x, self.mlp_in(self.mlp_norm(x)))


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Attend to all tokens: queries, keys and values are (B, heads, T, d), as is the result."""
    scale = q.shape[3] ** -0.5
    is_power_of_two = math.frexp(scale)[0] == 0.5  # others would round the queries
    if q.shape[2] > FEW_TOKENS or not is_power_of_two:
        return functional.scaled_dot_product_attention(q, k, v)
    # PyTorch's fused attention cuts the tokens into blocks, which costs more than it saves here
    scores = (q * scale).flatten(0, 1) @ k.flatten(0, 1).transpose(1, 2)
    attended: torch.Tensor = scores.softmax(-1) @ v.flatten(0, 1)
    return attended.view(q.shape)


class PackedPatches(torch.nn.Module):
    """The embedding of patches in bfloat16: as a product, it takes half of a convolution's time."""

    def __init__(self, convolution: torch.nn.Conv2d) -> None:
        super().__init__()
        self.weight = convolution.weight  # the towers of transformers ask for its type
        self.size = convolution.kernel_size
        bias = convolution.bias
        if bias is None:
            bias = torch.zeros(convolution.out_channels)
        self.product = PackedLinear(convolution.weight.flatten(1), bias)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed the patches: (B, 3, H, W) -> (B, width, rows, columns)."""
        patches = pixels
        for axis, size in zip((2, 3), self.size, strict=True):
            patches = patches.unfold(axis, size, size)  # at last (B, 3, rows, columns, h, w)
        embeddings = self.product(patches.permute(0, 2, 3, 1, 4, 5).flatten(3))
        return embeddings.permute(0, 3, 1, 2)


class PackedEncoder(torch.nn.Module):
    """Packed layers in the place of the `encoder` of a tower of transformers."""

    def __init__(self, layers: list[PackedLayer]) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)

    def forward(self, inputs_embeds: torch.Tensor, **_: Any) -> Any:
        """Apply the layers: (B, T, width) -> (B, T, width) as `last_hidden_state`."""
        for layer in self.layers:
            inputs_embeds = layer(inputs_embeds)
        # transformers 4 asks for the other two
        return SimpleNamespace(last_hidden_state=inputs_embeds, hidden_states=None, attentions=None)


class PackedTransformer(PackedEncoder):
    """Packed layers in the place of the `transformer` of an image tower of open_clip."""

    batch_first = True  # which the search for layers asks of open_clip's own

    @property
    def resblocks(self) -> torch.nn.ModuleList:
        """The layers, by open_clip's name."""
        return self.layers

    def forward(self, inputs_embeds: torch.Tensor, **_: Any) -> Any:
        """Apply the layers: (B, T, width) -> (B, T, width)."""
        return super().forward(inputs_embeds).last_hidden_state


def _pack_patches(layers: TowerLayers) -> torch.nn.Module:
    """Pack the embedding of patches in place if it is a plain product; return the convolution."""
    convolution: torch.nn.Conv2d = getattr(*layers.patches)
    patches_touch = (
        convolution.stride == convolution.kernel_size
        and convolution.padding in ((0, 0), "valid")
        and convolution.dilation == (1, 1)
    )
    if patches_touch and convolution.groups == 1:
        setattr(*layers.patches, PackedPatches(convolution))
    return convolution


def pack_layers(layers: TowerLayers) -> torch.nn.Module | None:
    """Pack an image tower's layers; return None if PyTorch or oneDNN cannot."""
    onednn: Any = torch.backends.mkldnn
    if not onednn.is_available():
        return None
    try:
        encoder = layers.encoder([PackedLayer(layer) for layer in layers.layers])
        width = layers.layers[0].attention_out.in_features
        encoder(torch.zeros(1, 1, width, dtype=torch.bfloat16))
    except (AttributeError, RuntimeError):  # another PyTorch, or a oneDNN without these products
        return None
    return encoder


def move_compiler_folder() -> None:
    """Keep the folder of PyTorch's compiler, which clipkit does not use, out of TMPDIR.

    PyTorch makes it as soon as its compiler is imported, and transformers imports that. It is made
    in ``$XDG_CACHE_HOME``, by default ``~/.cache``, or where TORCHINDUCTOR_CACHE_DIR says.
    """
    with contextlib.suppress(OSError, RuntimeError):  # no home, or one that is read-only
        folder = user_cache() / "clipkit" / "inductor"
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


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


DTYPES = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def find_device(name: str, *, needs_float64: bool = False) -> torch.device:
    """Return the device with this name; ``auto`` is the first of a GPU, MPS and the CPU.

    MPS has no float64, so that ``auto`` is the CPU there for a model that needs it.
    """
    counts = {
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    if name == "auto":
        if needs_float64:
            del counts["mps"]
        return torch.device(next(kind for kind, count in counts.items() if count))
    check_device(name)
    kind, _, index = name.partition(":")
    if int(index or 0) >= counts[kind]:
        raise ClipkitError(
            f"cannot use the device {name}: PyTorch {torch.__version__} finds "
            f"{console.count(counts[kind], f'{kind} device')}",
            "use --device auto",
        )
    return torch.device(name)


def choose_precision(
    name: str, device: torch.device, *, is_plain: bool, is_bundled: bool = False
) -> str:
    """Return the precision with this name.

    ``auto`` is float64 for the bundled models: their embeddings, rounded once to float32, are then
    equal on all processors. If `is_plain` is true, it is float32: for models that are not tested,
    and for texts, which are few, while the rounding error of one prompt affects every image's
    entropy. For other images it is the fastest precision that the device has natively.
    """
    if name in DTYPES:
        return name
    if name != "auto":
        raise unknown("precision", name, ["auto", *DTYPES])
    if is_bundled and device.type != "mps":  # which has no float64
        return "fp64"
    if is_plain or is_bundled:
        return "fp32"
    if device.type == "mps":
        return "fp16"
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)
        return "bf16" if has_bfloat16 else "fp16"
    has_bfloat16 = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    return "bf16" if has_bfloat16 else "fp32"


def num_threads() -> int:
    """Return the number of threads that PyTorch computes with on a CPU.

    It decides how sums are divided. In bfloat16 the last bits of a large model depend on it.
    """
    return torch.get_num_threads()


def set_num_threads(number: int) -> None:
    """Let PyTorch compute with this many threads, before a model is loaded."""
    torch.set_num_threads(number)
