"""Run one tower of a model, and take the embedding from what it returns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch

from clipkit.base.errors import ClipkitError, UsageError

TowerName = Literal["image", "text"]

NO_TEXT = "which is for images alone"  # why a model has no text tower
CLS = "CLS token"  # of the last layer
MEAN = "mean of patches"
MEAN_OF_TOKENS = "mean of tokens"  # which may be patches or others: only the kind could tell
MEAN_OF_MAP = "mean of the map"
SIZE_HINT = "the model may take images of one size only: leave --image-size out"
PADDING_MASK = "pixel_attention_mask"  # (B, T) among the inputs: 1 for a patch, 0 for padding


@dataclass(frozen=True)
class Tower:
    """A tower of a library: inputs -> embeddings (B, D).

    `model` returns embeddings, or outputs by name. `output` is then the name of the embeddings, or
    `CLS` or `MEAN`. If the embedding is the mean of patches, the model has no other tokens.
    """

    model: Any
    output: str

    @torch.inference_mode()
    def __call__(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Embed pixels or tokens."""
        outputs = self.model(**inputs)
        if isinstance(outputs, torch.Tensor):
            return outputs
        if self.output not in (CLS, MEAN):
            embeddings: torch.Tensor = outputs[self.output]
            return embeddings
        tokens: torch.Tensor = outputs["last_hidden_state"]  # (B, T, width)
        if self.output == CLS:
            return tokens[:, 0]
        return mean_of_patches(tokens, inputs.get(PADDING_MASK))


def mean_of_patches(patches: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return the mean (B, width) of patches (B, T, width), without padding if there is a mask."""
    if mask is None:
        return patches.mean(dim=1)
    mask = mask[..., None]  # (B, T, 1)
    return (patches * mask).sum(dim=1) / mask.sum(dim=1)


def last_token(ids: torch.Tensor) -> torch.Tensor:
    """Return the position (B) of the last of T token ids (B, T)."""
    return ids.new_full(ids.shape[:1], ids.shape[1] - 1)


def largest_token(ids: torch.Tensor) -> torch.Tensor:
    """Return the position (B) of the largest token id: CLIP's end token has the largest number."""
    return ids.argmax(dim=1)


def find_token(ids: torch.Tensor, token: int) -> torch.Tensor:
    """Return the position (B) of the first of the ids (B, T) that is `token`."""
    return (ids == token).int().argmax(dim=1)


@dataclass(frozen=True)
class Stack:
    """The layers of a tower, in order. What passes from one to the next are the hidden states.

    Hidden state 0 is the input of the first layer, hidden state n the output of layer n, before
    `norm`.

    Attributes
    ----------
    layers : sequence of torch.nn.Module
        Each returns tokens (B, T, width) or a map (B, width, H, W), or a tuple that starts so.
    norm : torch.nn.Module or None
        What the model applies to the tokens (B, T, width) of the last hidden state, or to the mean
        (B, width) of a map.
    pooled_norm : torch.nn.Module or None
        What it applies to the mean (B, width) of tokens.
    prefix : int
        The number of tokens before the patches: CLS (if `has_cls`, the first), registers,
        summaries.
    suffix : int
        The number of tokens behind the patches, such as those of YOLOS that stand for objects.
    pooled_token : callable or None
        Of a text tower: token ids (B, T) -> the position (B) of the token that the model pools.
    lowest : int
        The lowest number of a hidden state: 1 if the input of the first layer is not known.
    states : callable or None
        Of a library that returns hidden states: their numbers and the inputs -> the states.
    head : torch.nn.Module or None
        Of a generative model: the output embedding. The last hidden state is what it reads.
    """

    layers: Sequence[Any]
    norm: Any
    pooled_norm: Any = field(default=None, kw_only=True)
    prefix: int = 0
    suffix: int = 0
    has_cls: bool = False
    pooled_token: Callable[[torch.Tensor], torch.Tensor] | None = None
    lowest: int = 0
    states: Callable[..., Mapping[int, torch.Tensor]] | None = None
    head: Any = None


POOLS = ("cls", "mean")
ALL = "all"  # in place of the numbers of layers


class Enough(Exception):  # noqa: N818 (no error)
    """The last hidden state that is needed has been read."""


@dataclass(frozen=True)
class LayerTower:
    """A tower that returns pooled hidden states: inputs -> (B, D), in float32 or wider.

    Layers stand side by side, in the order of `layers`. Layers above the highest are not run.
    `choose_layers` makes it.

    Attributes
    ----------
    model : torch.nn.Module
        What the inputs go into.
    stack : Stack
    layers : tuple of int
        Numbers of hidden states, 0..n.
    pool : {"cls", "mean"} or None
        The first token, or the mean of the patches; None for the token that a text tower pools.
    norm : bool
        Apply the final norm of the model, where the model does: before or after pooling.
    """

    model: Any
    stack: Stack
    layers: tuple[int, ...]
    pool: str | None
    norm: bool

    def __call__(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Return the pooled hidden states of pixels or tokens."""
        return torch.cat(list(self.states(inputs).values()), dim=1)

    @torch.inference_mode()
    def states(self, inputs: dict[str, Any]) -> dict[int, torch.Tensor]:
        """Return the pooled hidden state (B, width) of each layer."""
        if self.stack.states is not None:
            states = self.stack.states(self.layers, **inputs)
            return {number: self._pool(states[number], inputs) for number in self.layers}
        pooled: dict[int, torch.Tensor] = {}

        def read(number: int, state: torch.Tensor) -> None:
            # pooled at once, so that the tokens of one layer alone are in memory
            pooled[number] = self._pool(state, inputs)
            if number == max(self.layers):
                raise Enough

        with contextlib.ExitStack() as hooks, contextlib.suppress(Enough):
            for number in self.layers:
                handle = call_with_state(self.stack, number, partial(read, number))
                hooks.callback(handle.remove)
            self.model(**inputs)
        if len(pooled) < len(self.layers):
            raise ClipkitError("expected a model that calls each of its layers, got another")
        return {number: pooled[number] for number in self.layers}

    def _pool(self, state: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
        """Pool tokens (B, T, width) or a map (B, width, H, W) to (B, width), and norm them."""
        if state.ndim == 2:  # a layer of one's own encoder may have pooled them
            return widened(state).clone()  # its code may use the memory again
        if state.ndim == 4:
            pooled, norm = widened(state).mean(dim=(-2, -1)), self.stack.norm
        else:
            pooled, norm = self._pool_tokens(state, inputs), self.stack.pooled_norm
        if not self.norm or norm is None:
            return pooled
        return widened(_apply_norm(norm, pooled.to(state.dtype)))

    def _pool_tokens(self, state: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        stack = self.stack
        if stack.pooled_token is not None:
            position = stack.pooled_token(inputs["input_ids"])
            rows = torch.arange(len(state), device=state.device)
            return widened(self._normed(state[rows, position][:, None])[:, 0])
        if self.pool == "cls":
            # a copy, since a view would keep all tokens of the layer
            return widened(self._normed(state[:, :1])[:, 0]).clone()
        end = state.shape[1] - stack.suffix
        patches = widened(self._normed(state[:, stack.prefix : end]))
        return mean_of_patches(patches, inputs.get(PADDING_MASK))

    def _normed(self, state: torch.Tensor) -> torch.Tensor:
        """Apply the norm of tokens (..., width), if there is one and it was asked for."""
        if not self.norm or self.stack.norm is None:
            return state
        return _apply_norm(self.stack.norm, state)


def widened(state: torch.Tensor) -> torch.Tensor:
    """Return numbers of half precision in float32, and others as they are."""
    return state.float() if state.dtype.itemsize < 4 else state


def _apply_norm(norm: Any, state: torch.Tensor) -> torch.Tensor:
    weight = getattr(norm, "weight", None)
    if weight is not None and weight.shape[-1] != state.shape[-1]:
        raise UsageError(
            f"expected a layer of the width of the final norm, {weight.shape[-1]}, "
            f"got one of {state.shape[-1]}",
            "leave --norm out",
        )
    normed: torch.Tensor = norm(state)
    return normed


def call_with_state(stack: Stack, number: int, read: Any) -> Any:
    """Call `read` with hidden state `number` whenever the model runs; return the hook."""
    is_read_by_head = stack.head is not None and number == len(stack.layers)
    if number == 0 or is_read_by_head:

        def before(_layer: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            read(inputs[0] if inputs else named["hidden_states"])

        reader = stack.head if is_read_by_head else stack.layers[0]
        return reader.register_forward_pre_hook(before, with_kwargs=True)

    def after(_layer: Any, _inputs: Any, output: Any) -> None:
        read(output if isinstance(output, torch.Tensor) else output[0])

    return stack.layers[number - 1].register_forward_hook(after)


def choose_layers(
    model: Any,
    stack: Stack,
    tower: TowerName,
    layers: Iterable[int] | Literal["all"],
    *,
    pool: str | None,
    norm: bool,
) -> LayerTower:
    """Return a tower of these layers, if the model has what `pool` and `norm` need."""
    numbers = resolve(layers, len(stack.layers), stack.lowest)
    if norm and stack.norm is None and stack.pooled_norm is None:
        raise UsageError(
            "expected a model that normalises all tokens at its end, got another",
            "leave --norm out",
        )
    if tower == "text":
        if stack.pooled_token is None:
            raise UsageError(
                "expected a text tower with a known pooled token, got another", "leave --layer out"
            )
    elif pool is None:
        pool = "cls" if stack.has_cls else "mean"
    elif pool not in POOLS:
        raise UsageError(f"expected a pool of {' or '.join(POOLS)}, got {pool!r}")
    elif pool == "cls" and not stack.has_cls:
        raise UsageError("expected a model with a CLS token, got one without", "use --pool mean")
    return LayerTower(model, stack, numbers, pool, norm)


def resolve(layers: Iterable[int] | Literal["all"], count: int, lowest: int = 0) -> tuple[int, ...]:
    """Return the numbers of hidden states. A negative number counts from the end.

    >>> resolve([0, -1], 12), resolve("all", 3)
    ((0, 12), (0, 1, 2, 3))
    """
    if layers == ALL:
        return tuple(range(lowest, count + 1))
    numbers: list[int] = []
    for layer in layers:
        number = int(layer)
        if number < 0:
            number += count + 1
        if not lowest <= number <= count:
            raise UsageError(
                f"layer: expected {lowest} to {count}, or -1 to {lowest - count - 1} from the end, "
                f"got {layer}",
                "the last layer is -1, and all of them are: all",
            )
        if number in numbers:
            raise UsageError(f"expected different layers, got layer {number} twice")
        numbers.append(number)
    if not numbers:
        raise UsageError("expected the numbers of layers, got none")
    return tuple(numbers)
