"""An image tower made fast: its layers packed for oneDNN, or the whole of it compiled; results that do not wait.

On a processor that multiplies bfloat16 natively, packed layers are as fast as what a compiler makes of them, without
its time: weights are laid out once as the matrix products read them, and what is done row by row (activation, residual)
is done inside the products.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers.modeling_outputs import BaseModelOutput

from clipkit import console

# What the MLP may do between its products: oneDNN's name and algorithm for it, and the factor on its input.
# x sigmoid(1.702 x), CLIP's approximation of GELU, is swish(1.702 x) / 1.702.
ACTIVATIONS = {
    "quick_gelu": ("swish", "", 1.702),
    "gelu": ("gelu", "none", 1.0),
    "gelu_pytorch_tanh": ("gelu", "tanh", 1.0),
    "relu": ("relu", "", 1.0),
}
CACHE = "TORCHINDUCTOR_CACHE_DIR"
MANY = (
    100_000  # images that pay for a compilation on a GPU: a guess, which no GPU was at hand to test
)
ROWS = 64 * 50  # the layout suits matrices of about so many rows: a batch of 64 images in 50 tokens


class Linear:
    """x -> activation(x W' + b), in bfloat16.

    Parameters
    ----------
    weight : Tensor of shape (out, in)
    bias : Tensor of shape (out,)
    activation, algorithm : str
        As oneDNN calls them.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor,
        activation: str = "none",
        algorithm: str = "",
    ) -> None:
        half = weight.detach().to(torch.bfloat16)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(half, ROWS)
        self.bias = bias.detach().to(torch.bfloat16)
        self.activation, self.algorithm = activation, algorithm

    def __call__(self, x: torch.Tensor, add: torch.Tensor | None = None) -> torch.Tensor:
        """X (..., in) -> (..., out); `add` (..., out) is added to it, in place of an activation."""
        product: Any = torch.ops.mkldnn._linear_pointwise
        if add is not None:
            out: torch.Tensor = product.binary(x, add, self.weight, self.bias, "add")
        else:
            out = product(x, self.weight, self.bias, self.activation, [], self.algorithm)
        return out


class Layer:
    """One transformer layer: attention, then the MLP, each after a LayerNorm and added to what came in."""

    def __init__(self, layer: Any, activation: str) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        parts = attention.q_proj, attention.k_proj, attention.v_proj
        name, algorithm, factor = ACTIVATIONS[activation]
        self.heads = attention.num_heads
        self.norms = [layer.layer_norm1.to(torch.bfloat16), layer.layer_norm2.to(torch.bfloat16)]
        self.qkv = Linear(
            torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
        )
        self.out = Linear(attention.out_proj.weight, attention.out_proj.bias)
        self.up = Linear(mlp.fc1.weight * factor, mlp.fc1.bias * factor, name, algorithm)
        self.down = Linear(mlp.fc2.weight / factor, mlp.fc2.bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """X (B, T, width) -> (B, T, width)."""
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norms[0](x)).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, T, width / heads)
        found = (
            functional.scaled_dot_product_attention(q, k, v)
            .transpose(1, 2)
            .reshape(batch, tokens, width)
        )
        x = self.out(found, add=x)
        return self.down(self.up(self.norms[1](x)), add=x)


class Layers(torch.nn.Module):
    """What stands in the place of a tower's `encoder`."""

    def __init__(self, layers: list[Layer]) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, inputs_embeds: torch.Tensor, **_: Any) -> BaseModelOutput:
        """(B, T, width) -> (B, T, width) as `last_hidden_state`."""
        for layer in self.layers:
            inputs_embeds = layer(inputs_embeds)
        return BaseModelOutput(last_hidden_state=inputs_embeds)


def packed(model: torch.nn.Module, config: Any) -> bool:
    """Pack the layers of an image tower (float32, on the CPU) for bfloat16; gives whether that could be done."""
    vision: Any = getattr(model, "vision_model", model)
    onednn: Any = torch.backends.mkldnn
    if not onednn.is_available() or config.hidden_act not in ACTIVATIONS:
        return False
    try:
        with torch.inference_mode():
            layers = Layers([Layer(layer, config.hidden_act) for layer in vision.encoder.layers])
            layers(torch.zeros(1, 1, config.hidden_size, dtype=torch.bfloat16))
    except (AttributeError, RuntimeError):  # another PyTorch, or a oneDNN without these products
        return False
    vision.encoder = layers
    return True


def compiled(model: torch.nn.Module, config: Any, batch: int) -> Any:
    """Compile an image tower for batches of one size and run it once; None, with a note, where that fails.

    What the compiler makes is kept in ``$XDG_CACHE_HOME/clipkit/inductor`` (``~/.cache`` by default), or where
    TORCHINDUCTOR_CACHE_DIR says.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    try:
        import torch._inductor.config as inductor
        from torch._inductor.runtime import runtime_utils

        default: Any = vars(runtime_utils)["default_cache_dir"]
        if os.environ.get(CACHE) in (None, default()):  # PyTorch names its own when it is imported
            os.environ[CACHE] = str(home / "clipkit" / "inductor")
        weight = next(model.parameters())
        pixels = weight.new_zeros(batch, config.num_channels, config.image_size, config.image_size)
        # weights that are known when compiling can be packed for oneDNN; PyTorch then keeps the code, not the graph
        options = {
            "fx_graph_cache": True,
            "freezing": weight.device.type == "cpu",
            "compile_threads": 1,
        }
        with warnings.catch_warnings(), inductor.patch(options), torch.inference_mode():
            warnings.simplefilter("ignore")
            quick = torch.compile(model, dynamic=False)
            quick(pixel_values=pixels)
    except Exception as error:  # of a compiler, of PyTorch, of the cache's file system
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        console.note(f"the model could not be compiled and runs without: {reason}")
        return None
    return quick


def should_compile(device: str, images: int) -> bool:
    """Whether compiling pays without being asked for: on a GPU, with Triton, before very many images.

    On a CPU it does not: packed layers are as fast.
    """
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    return on_gpu and images >= MANY and importlib.util.find_spec("triton") is not None


class Pending:
    """Embeddings (B, D) on their way from a GPU; numpy waits for them."""

    def __init__(self, embeddings: torch.Tensor) -> None:
        self.rows = embeddings.to("cpu", non_blocking=True)
        cuda: Any = torch.cuda
        self.arrived = cuda.Event()
        self.arrived.record()

    def __len__(self) -> int:
        return len(self.rows)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """Wait, then give the rows as numpy wants them."""
        self.arrived.synchronize()
        return np.array(self.rows.numpy(), dtype=dtype, copy=copy)
