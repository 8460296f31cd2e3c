"""Train the bundled model from scratch on fresh `shapes`: ``python -m clipkit.tiny.train --out FOLDER``.

The same seed on the same machine gives the same weights. A run that was stopped goes on from its last checkpoint when
the same command is given again. The recipe and what it gives are in the model card beside this file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from .samples import ATTRIBUTES, Batch, batches
from .tokenizer import CONTEXT, build_tokenizer

SIZE, PATCH, WIDTH, DIM = 48, 8, 128, 64
MEAN, STD = 0.5, 0.25
CURVE_STEPS = 100  # that one point of the loss curve averages


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the weights, the software and the machine aside."""

    seed: int = 0
    samples: int = 224_000
    batch: int = 128
    muon_lr: float = 0.02
    adamw_lr: float = 1.5e-3
    weight_decay: float = 0.05
    warmup: int = 100
    curriculum: float = 0.35

    @property
    def steps(self) -> int:
        """Optimiser steps, the last of which ends at `samples` or just before it."""
        return self.samples // self.batch

    def batches(self, first: int) -> Iterator[Batch]:
        """The batches of the steps from `first` on."""
        return batches(
            self.seed,
            first,
            steps=self.steps,
            batch=self.batch,
            curriculum=self.curriculum,
            size=SIZE,
            patch=PATCH,
        )


def build_model(tokenizer: Any) -> Any:
    """A stock `CLIPModel` with fresh weights."""
    from transformers import CLIPConfig, CLIPModel

    tokens = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
    }
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": CONTEXT, "projection_dim": DIM, "hidden_act": "relu",
        **tokens,
    }  # fmt: skip
    vision = {
        "hidden_size": WIDTH, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
        "image_size": SIZE, "patch_size": PATCH, "projection_dim": DIM, "hidden_act": "relu",
    }  # fmt: skip
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=DIM)
    config._attn_implementation = "eager"
    return CLIPModel(config)


class Heads(nn.Module):
    """Auxiliary tasks, thrown away in the end: attributes from the embedding, the object's mask from the patches."""

    def __init__(self) -> None:
        super().__init__()
        self.attributes = nn.Linear(DIM, sum(ATTRIBUTES.values()))
        self.mask = nn.Linear(WIDTH, 1)

    def forward(self, embedding: Tensor, patches: Tensor, codes: Tensor, cover: Tensor) -> Tensor:
        """The sum of the tasks' losses; codes (B, attributes), cover (B, patches)."""
        logits = self.attributes(embedding).float().split(list(ATTRIBUTES.values()), dim=1)
        losses = [F.cross_entropy(z, codes[:, i]) for i, z in enumerate(logits)]
        mask = F.binary_cross_entropy_with_logits(self.mask(patches).float()[..., 0], cover)
        label, outline, pattern, *others = losses
        return label + outline + pattern + 0.1 * torch.stack(others).sum() + mask


def loss_of(model: Any, heads: Heads, tokenizer: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """The CLIP loss (symmetric InfoNCE) and the sum of the auxiliary ones."""
    pixels = (torch.from_numpy(batch.pixels).permute(0, 3, 1, 2) / 255 - MEAN) / STD
    codes, cover = torch.from_numpy(batch.codes), torch.from_numpy(batch.cover)
    tokens = tokenizer(batch.texts, padding=True, return_tensors="pt")
    with torch.autocast("cpu", torch.bfloat16):
        seen = model.vision_model(pixel_values=pixels)
        image = model.visual_projection(seen.pooler_output)
        text = model.text_projection(model.text_model(input_ids=tokens["input_ids"]).pooler_output)
        auxiliary = heads(image, seen.last_hidden_state[:, 1:], codes, cover)
    image, text = F.normalize(image.float(), dim=1), F.normalize(text.float(), dim=1)
    logits = image @ text.T * model.logit_scale.exp()
    target = torch.arange(len(logits))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2, auxiliary


def optimizers(model: Any, heads: Heads, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the vision layers, AdamW for all else."""
    layers = model.vision_model.encoder.layers
    matrices = [p for p in layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in [*model.parameters(), *heads.parameters()] if id(p) not in chosen]
    opts: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=recipe.muon_lr, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(others, lr=recipe.adamw_lr, weight_decay=recipe.weight_decay),
    ]
    for opt in opts:
        for group in opt.param_groups:
            group["peak_lr"] = group["lr"]
    return opts


def learning_rates(opts: list[torch.optim.Optimizer], recipe: Recipe, step: int) -> None:
    """Warm up linearly, then follow a cosine down to zero."""
    factor = (
        min(1.0, (step + 1) / recipe.warmup) * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
    )
    for opt in opts:
        for group in opt.param_groups:
            group["lr"] = group["peak_lr"] * factor


class State:
    """What a checkpoint holds: weights, optimisers, the step that comes next, and the loss curve so far."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        torch.manual_seed(recipe.seed)
        self.path, self.recipe = folder / "checkpoint.pt", recipe
        self.tokenizer = build_tokenizer(folder)
        self.model, self.heads = build_model(self.tokenizer), Heads()
        self.opts = optimizers(self.model, self.heads, recipe)
        self.step, self.curve = 0, list[list[float]]()

    def save(self) -> None:
        """Write the checkpoint; a kill at any moment leaves the old one or the new one."""
        parts = [part.state_dict() for part in (self.model, self.heads, *self.opts)]
        half = self.path.with_suffix(".tmp")
        torch.save(
            {"recipe": asdict(self.recipe), "step": self.step, "curve": self.curve, "parts": parts},
            half,
        )
        os.replace(half, self.path)

    def load(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if not self.path.exists():
            return
        saved = torch.load(self.path, weights_only=True)
        if saved["recipe"] != asdict(self.recipe):
            raise UsageError(
                f"{self.path} must come from the same command; it was made by {saved['recipe']}",
                "remove it, or choose another --out",
            )
        self.step, self.curve = saved["step"], saved["curve"]
        for part, weights in zip((self.model, self.heads, *self.opts), saved["parts"], strict=True):
            part.load_state_dict(weights)


def update(state: State, batch: Batch) -> tuple[Tensor, Tensor]:
    """One optimiser step; returns the contrastive and the auxiliary loss."""
    learning_rates(state.opts, state.recipe, state.step)
    contrastive, auxiliary = loss_of(state.model, state.heads, state.tokenizer, batch)
    for opt in state.opts:
        opt.zero_grad()
    torch.autograd.backward(contrastive + auxiliary)
    for opt in state.opts:
        opt.step()
    with torch.no_grad():
        state.model.logit_scale.clamp_(0, math.log(100))
    state.step += 1
    return contrastive.detach(), auxiliary.detach()


def train(
    out: Path, recipe: Recipe, *, save_every: int = 200, stop_after: int | None = None
) -> str | None:
    """Train, or go on training, and write the model's folder.

    Parameters
    ----------
    out : pathlib.Path
        Made if need be; a checkpoint in it is continued, and removed when the model is written.
    recipe : Recipe
    save_every : int
        Steps between checkpoints.
    stop_after : int, optional
        Leave after this step with a checkpoint, as if interrupted.

    Returns
    -------
    str or None
        The SHA-256 of the weights file; None if stopped before the end.

    Raises
    ------
    UsageError
        If the checkpoint in `out` was made by another recipe.
    """
    torch.set_num_threads(1)  # the same sums in the same order, however many cores there are
    torch.use_deterministic_algorithms(True)
    out.mkdir(parents=True, exist_ok=True)
    state = State(out, recipe)
    state.load()
    recent: list[Tensor] = []
    with progress() as bar:
        task = bar.add_task("training", total=recipe.steps, completed=state.step, rate="", loss="")
        for batch in recipe.batches(state.step):
            losses = update(state, batch)
            recent.append(torch.stack(losses))
            if state.step % CURVE_STEPS == 0:
                state.curve.append(
                    [
                        state.step,
                        *(round(x, 4) for x in torch.stack(recent[-CURVE_STEPS:]).mean(0).tolist()),
                    ]
                )
            rate = (bar.tasks[0].speed or 0) * recipe.batch
            bar.update(
                task,
                advance=1,
                rate=f"{rate:.0f} images/s",
                loss=f"loss {losses[0]:.3f} + {losses[1]:.3f}",
            )
            if state.step % save_every == 0 or state.step == stop_after:
                state.save()
            if state.step == stop_after:
                return None
    return write_model(out, state)


def progress() -> Any:
    """The progress bar, on stderr."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    fields = [TextColumn("{task.fields[" + name + "]}") for name in ("rate", "loss")]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *fields,
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))


def write_model(out: Path, state: State) -> str:
    """Write weights (fp16), configuration, image processor and loss curve; the checkpoint goes."""
    from transformers import CLIPImageProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    state.model.half().save_pretrained(out)
    CLIPImageProcessor(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    ).save_pretrained(out)
    weights = out / "model.safetensors"
    weights.chmod(0o644)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    record = {"recipe": asdict(state.recipe), "weights_sha256": digest, "curve": state.curve}
    (out / "training.json").write_text(json.dumps(record) + "\n")
    state.path.unlink(missing_ok=True)
    return digest


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m clipkit.tiny.train", description=__doc__)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="where the model goes"
    )
    parser.add_argument(
        "--seed", type=int, default=Recipe.seed, help=f"of weights and samples ({Recipe.seed})"
    )
    parser.add_argument(
        "--samples", type=int, default=Recipe.samples, help=f"images to train on ({Recipe.samples})"
    )
    options = parser.parse_args(arguments)
    try:
        digest = train(options.out, Recipe(seed=options.seed, samples=options.samples))
    except UsageError as error:
        print(f"clipkit.tiny.train: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    print(f"{digest}  {options.out / 'model.safetensors'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
