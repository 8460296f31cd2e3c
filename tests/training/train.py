"""Train the bundled model from scratch: ``python -m training.train --out FOLDER``.

The same seed on the same machine gives the same weights. The same command continues a run that was
stopped. README.md in this folder describes the recipe and the results. Training needs torch 2.9 or
newer, which has `torch.optim.Muon`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from clipkit.base import console
from clipkit.base.errors import UsageError
from training.samples import ATTRIBUTES, PATCH, SIZE, Batch, batches
from training.tokenizer import CONTEXT, build_tokenizer

WIDTH, DIM = 128, 64
MEAN, STD = 0.5, 0.25
SAVE_STEPS = 200  # between checkpoints
CURVE_STEPS = 100  # averaged in one point of the loss curve


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the weights, apart from the software and the machine."""

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
        """The number of optimiser steps; samples that do not fill a batch are left out."""
        return self.samples // self.batch


def build_model(tokenizer: Any) -> Any:
    """Return a `CLIPModel` of transformers with random weights."""
    from transformers import CLIPConfig, CLIPModel

    common = {"hidden_size": WIDTH, "intermediate_size": 512, "num_attention_heads": 4}
    common |= {"projection_dim": DIM, "hidden_act": "relu"}
    text = {**common, "num_hidden_layers": 2, "max_position_embeddings": CONTEXT}
    text |= {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id}
    text |= dict.fromkeys(("eos_token_id", "pad_token_id"), tokenizer.eos_token_id)
    vision = {**common, "num_hidden_layers": 4, "image_size": SIZE, "patch_size": PATCH}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=DIM)
    config._attn_implementation = "eager"
    return CLIPModel(config)


class AuxiliaryHeads(nn.Module):
    """Predict attributes from the embedding and the object's mask from the patches.

    The heads are discarded after training.
    """

    def __init__(self) -> None:
        super().__init__()
        self.attributes = nn.Linear(DIM, sum(ATTRIBUTES.values()))
        self.mask = nn.Linear(WIDTH, 1)

    def forward(
        self, embedding: Tensor, patches: Tensor, codes: Tensor, patch_mask: Tensor
    ) -> Tensor:
        """Return the sum of the losses; `codes` (B, attributes), `patch_mask` (B, patches)."""
        logits = self.attributes(embedding).float().split(list(ATTRIBUTES.values()), dim=1)
        losses = [functional.cross_entropy(z, codes[:, i]) for i, z in enumerate(logits)]
        label, outline, pattern, *others = losses
        mask_logits = self.mask(patches).float()[..., 0]  # (B, patches)
        mask = functional.binary_cross_entropy_with_logits(mask_logits, patch_mask)
        return label + outline + pattern + 0.1 * torch.stack(others).sum() + mask


def compute_losses(
    model: Any, heads: AuxiliaryHeads, tokenizer: Any, batch: Batch
) -> tuple[Tensor, Tensor]:
    """Return the CLIP loss (symmetric InfoNCE) and the sum of the auxiliary losses."""
    pixels = (torch.from_numpy(batch.pixels).permute(0, 3, 1, 2) / 255 - MEAN) / STD
    codes, patch_mask = torch.from_numpy(batch.codes), torch.from_numpy(batch.patch_mask)
    tokens = tokenizer(batch.texts, padding=True, return_tensors="pt")
    with torch.autocast("cpu", torch.bfloat16):
        vision = model.vision_model(pixel_values=pixels)
        image = model.visual_projection(vision.pooler_output)
        text = model.text_projection(model.text_model(input_ids=tokens["input_ids"]).pooler_output)
        auxiliary = heads(image, vision.last_hidden_state[:, 1:], codes, patch_mask)
    image = functional.normalize(image.float(), dim=1)
    text = functional.normalize(text.float(), dim=1)
    logits = image @ text.T * model.logit_scale.exp()
    target = torch.arange(len(logits))
    by_image = functional.cross_entropy(logits, target)
    by_text = functional.cross_entropy(logits.T, target)
    return (by_image + by_text) / 2, auxiliary


def build_optimizers(
    model: Any, heads: AuxiliaryHeads, recipe: Recipe
) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the vision layers and AdamW for everything else."""
    layers = model.vision_model.encoder.layers
    matrices = [p for p in layers.parameters() if p.ndim == 2]
    matrix_ids = {id(p) for p in matrices}
    others = [p for p in [*model.parameters(), *heads.parameters()] if id(p) not in matrix_ids]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=recipe.muon_lr, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(others, lr=recipe.adamw_lr, weight_decay=recipe.weight_decay),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def set_learning_rates(
    optimizers: list[torch.optim.Optimizer], step: int, *, steps: int, warmup: int
) -> None:
    """Warm up linearly, then follow a cosine down to zero after all steps."""
    warmed = min(1.0, (step + 1) / warmup)
    factor = warmed * 0.5 * (1 + math.cos(math.pi * step / steps))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor


class TrainingState:
    """What a checkpoint holds: weights, optimisers, the next step and the loss curve so far.

    A new state continues the checkpoint in the folder, if there is one. It raises `UsageError` if
    the checkpoint was written under another recipe.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        torch.manual_seed(recipe.seed)
        self.path = folder / "checkpoint.pt"
        self.recipe = recipe
        self.tokenizer = build_tokenizer(folder)
        self.model = build_model(self.tokenizer)
        self.heads = AuxiliaryHeads()
        self.optimizers = build_optimizers(self.model, self.heads, recipe)
        self.parts = [self.model, self.heads, *self.optimizers]
        self.step = 0
        self.curve: list[list[float]] = []
        if self.path.exists():
            self._load()

    def save(self) -> None:
        """Write the checkpoint. If the process is killed, the old or the new one is there."""
        content = {
            "recipe": asdict(self.recipe),
            "step": self.step,
            "curve": self.curve,
            "parts": [part.state_dict() for part in self.parts],
        }
        temporary = self.path.with_suffix(".tmp")
        torch.save(content, temporary)
        os.replace(temporary, self.path)

    def _load(self) -> None:
        content = torch.load(self.path, weights_only=True)
        if content["recipe"] != asdict(self.recipe):
            raise UsageError(
                f"{self.path}: expected a checkpoint of the same recipe, got {content['recipe']}",
                "remove it, or choose another --out",
            )
        self.step = content["step"]
        self.curve = content["curve"]
        for part, weights in zip(self.parts, content["parts"], strict=True):
            part.load_state_dict(weights)


def update(state: TrainingState, batch: Batch) -> Tensor:
    """Take one optimiser step; return the contrastive and the auxiliary loss (2,)."""
    recipe = state.recipe
    set_learning_rates(state.optimizers, state.step, steps=recipe.steps, warmup=recipe.warmup)
    contrastive, auxiliary = compute_losses(state.model, state.heads, state.tokenizer, batch)
    for optimizer in state.optimizers:
        optimizer.zero_grad()
    torch.autograd.backward(contrastive + auxiliary)
    for optimizer in state.optimizers:
        optimizer.step()
    with torch.no_grad():
        state.model.logit_scale.clamp_(0, math.log(100))
    state.step += 1
    return torch.stack([contrastive.detach(), auxiliary.detach()])


def train(out: Path, recipe: Recipe, *, stop_after: int | None = None) -> str | None:
    """Train the model, or continue to train it, and write its folder.

    Parameters
    ----------
    stop_after : int, optional
        Stop after this step with a checkpoint, as if interrupted.

    Returns
    -------
    str or None
        The SHA-256 of the weights file; None if stopped before the end.
    """
    torch.set_num_threads(1)  # the order of sums must not depend on the number of cores
    torch.use_deterministic_algorithms(True)
    out.mkdir(parents=True, exist_ok=True)
    state = TrainingState(out, recipe)
    samples = batches(
        recipe.seed,
        state.step,
        steps=recipe.steps,
        batch=recipe.batch,
        curriculum=recipe.curriculum,
    )
    losses: list[Tensor] = []
    with console.progress("training", "steps", state.step) as report_progress:
        for batch in samples:
            losses.append(update(state, batch))
            report_progress(state.step, recipe.steps)
            if state.step % CURVE_STEPS == 0:
                mean = torch.stack(losses[-CURVE_STEPS:]).mean(0).tolist()
                state.curve.append([state.step, *(round(loss, 4) for loss in mean)])
            if state.step % SAVE_STEPS == 0 or state.step == stop_after:
                state.save()
            if state.step == stop_after:
                return None
    return write_model(out, state)


def write_model(out: Path, state: TrainingState) -> str:
    """Write weights (fp16), configuration, image processor and loss curve; drop the checkpoint.

    Return the SHA-256 of the weights file.
    """
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
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="FOLDER", help="folder for the model")
    seed_help = "random seed of weights and samples (%(default)s)"
    add("--seed", type=int, default=Recipe.seed, help=seed_help)
    samples_help = "number of images to train on (%(default)s)"
    add("--samples", type=int, default=Recipe.samples, help=samples_help)
    options = parser.parse_args(arguments)
    try:
        digest = train(options.out, Recipe(seed=options.seed, samples=options.samples))
    except UsageError as error:
        parser.exit(error.exit_code, f"training.train: {error}\n")
    sys.stdout.write(f"{digest}  {options.out / 'model.safetensors'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
