"""Read pooled hidden states of a tower, by hooks on its layers.

The hooks see what passes from one layer to the next. The hidden states that a library returns are
not always that: transformers applies the final norm to the last one of some models.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from clipkit.base.errors import UsageError
from clipkit.models.towers import PADDING_MASK, Stack, TowerName, mean_of_patches

Pool = Literal["cls", "mean"]
POOLS = ("cls", "mean")
ALL = "all"  # in place of the numbers of layers


class _Enough(Exception):  # noqa: N818 (no error)
    """The last hidden state that is needed has been read."""


@dataclass(frozen=True)
class LayerTower:
    """A tower that returns pooled hidden states: inputs -> (B, D), in float32.

    Those of several layers stand side by side, in the order of `layers`. Layers above the highest
    are not run. `choose_layers` makes it.

    Attributes
    ----------
    model : torch.nn.Module
        What the inputs go into. It may not be compiled, since compiled code has no hooks.
    stack : Stack
        The layers of the model.
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
    pool: Pool | None
    norm: bool

    @torch.inference_mode()
    def __call__(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Return the pooled hidden states of pixels or tokens."""
        pooled: dict[int, torch.Tensor] = {}

        def read(number: int, state: torch.Tensor) -> None:
            # pooled at once, so that the tokens of one layer alone are in memory
            pooled[number] = self._pool(state, inputs)
            if number == max(self.layers):
                raise _Enough

        with contextlib.ExitStack() as hooks, contextlib.suppress(_Enough):
            for number in self.layers:
                handle = _call_with_state(self.stack, number, partial(read, number))
                hooks.callback(handle.remove)
            self.model(**inputs)
        return torch.cat([pooled[number] for number in self.layers], dim=1)

    def _pool(self, state: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Pool tokens (B, T, width) or a map (B, width, H, W) to (B, width), and norm them."""
        pooled = self._pool_tokens_or_map(state, inputs)
        if not self.norm or self.stack.pooled_norm is None:
            return pooled
        return _apply_norm(self.stack.pooled_norm, pooled.to(state.dtype)).float()

    def _pool_tokens_or_map(
        self, state: torch.Tensor, inputs: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        stack = self.stack
        if stack.is_map:
            return state.float().mean(dim=(-2, -1))
        if stack.pooled_token is not None:
            position = stack.pooled_token(inputs["input_ids"])
            rows = torch.arange(len(state), device=state.device)
            return self._normed(state[rows, position][:, None])[:, 0].float()
        if self.pool == "cls":
            return self._normed(state[:, :1])[:, 0].float()
        patches = self._normed(state[:, stack.prefix :]).float()
        return mean_of_patches(patches, inputs.get(PADDING_MASK))

    def _normed(self, state: torch.Tensor) -> torch.Tensor:
        """Apply the norm of tokens (..., width), if there is one and it was asked for."""
        if not self.norm or self.stack.norm is None:
            return state
        return _apply_norm(self.stack.norm, state)


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


def _call_with_state(stack: Stack, number: int, read: Any) -> Any:
    """Have `read` called with hidden state `number` when the model runs; return the hook."""
    if number == 0:

        def before(_layer: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            read(inputs[0] if inputs else named["hidden_states"])

        return stack.layers[0].register_forward_pre_hook(before, with_kwargs=True)

    def after(_layer: Any, _inputs: Any, output: Any) -> None:
        read(output if isinstance(output, torch.Tensor) else output[0])

    return stack.layers[number - 1].register_forward_hook(after)


def choose_layers(
    model: Any,
    stack: Stack,
    tower: TowerName,
    layers: Sequence[int] | Literal["all"],
    pool: str | None,
    norm: bool,
) -> LayerTower:
    """Return a tower of the given layers, after a check that the model has what it needs.

    Parameters
    ----------
    layers : sequence of int or "all"
        Numbers 0..n, or -1 for n, -2 for n - 1 and so on.
    pool : str or None
        By default ``cls`` if there is a CLS token, else ``mean``. A text tower has no choice.

    Raises
    ------
    UsageError
        If there is no such layer, CLS token or norm, or a layer is named twice.
    """
    numbers = resolve(layers, len(stack.layers))
    if norm and stack.norm is None and stack.pooled_norm is None:
        raise UsageError(
            "expected a model that normalises all tokens at its end, got another",
            "leave --norm out",
        )
    if tower == "text":
        if pool is not None:
            raise UsageError(
                f"expected no pool of a text tower, got {pool!r}: it is the token that the model "
                "pools"
            )
        if stack.pooled_token is None:
            raise UsageError(
                "expected a text tower whose pooled token is known, got another",
                "leave --layer out",
            )
        return LayerTower(model, stack, numbers, None, norm)
    if pool is None:
        pool = "cls" if stack.has_cls else "mean"
    if pool not in POOLS:
        raise UsageError(f"expected a pool of {' or '.join(POOLS)}, got {pool!r}")
    if pool == "cls" and not stack.has_cls:
        raise UsageError("expected a model with a CLS token, got one without", "use --pool mean")
    return LayerTower(model, stack, numbers, "cls" if pool == "cls" else "mean", norm)


def resolve(layers: Iterable[int] | Literal["all"], count: int) -> tuple[int, ...]:
    """Return the numbers 0..n of hidden states, of which a negative number counts from the end.

    >>> resolve([0, -1], 12), resolve("all", 3)
    ((0, 12), (0, 1, 2, 3))
    """
    if layers == ALL:
        return tuple(range(count + 1))
    numbers: list[int] = []
    for layer in layers:
        number = int(layer)
        if not -count - 1 <= number <= count:
            raise UsageError(
                f"layer: expected 0 to {count}, or -1 to -{count + 1} from the end, got {number}"
            )
        number %= count + 1
        if number in numbers:
            raise UsageError(f"expected different layers, got layer {number} twice")
        numbers.append(number)
    if not numbers:
        raise UsageError("expected the numbers of layers, got none")
    return tuple(numbers)
