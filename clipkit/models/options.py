"""Which model runs if none is named, and how a model runs. The command line needs no more."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from clipkit.base.errors import UsageError, unknown
from clipkit.base.options import GENERATIVE_PANEL
from clipkit.features import model_settings

# Settings that a generative model takes with a question, and for its vision tower alone
ASKED = ("untrained", "precision", "layers", "ask", "as_embedding", "at")
VISION_TOWER = ("untrained", "precision", "layers", "pool", "norm", "vision_tower")
DEFAULT = "openai/clip-vit-base-patch32"


@dataclass(frozen=True)
class RunOptions:
    """How a model runs, from the command line to the encoder.

    Attributes
    ----------
    device : str
        ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
    precision : str
        What to compute in: ``fp64``, ``fp32``, ``bf16``, ``fp16`` or ``auto``. ``auto`` is ``fp64``
        for the bundled models. For others it is ``fp32`` for the text tower, and for the image
        tower the fastest that the device has natively. Embeddings are float32 in any case.
    untrained : int, optional
        Seed of the untrained control: the same architecture at random initialisation. Both towers
        of a seed come from one model.
    clean : bool
        Clean texts as SigLIP 2's training data were cleaned, if the tokenizer is SigLIP 2's:
        in lower case, without punctuation. For CLIP, clean them as OpenAI's code does, if ftfy is
        installed. Other models take texts as they are.
    layers : sequence of int or "all", optional
        Return hidden states in place of embeddings: 0 is the input of the first layer, n the
        output of the last. Negative numbers count from the end: -1 is n.
    pool : {"cls", "mean"}, optional
        With `layers`: take the CLS token, or the mean of the patches. By default ``cls`` if the
        model has one. A text tower takes the token that the model pools.
    norm : bool
        With `layers`: apply the model's final norm.
    ask : str, optional
        The question that a generative model is asked about each image. For embeddings of texts,
        ``{}`` in it stands for the text.
    as_embedding : bool
        With `ask`: take the last hidden state as an embedding, which is compared by cosines. By
        default, it is compared with rows of the output embedding, by next-token logits.
    vision_tower : bool
        Read the layers of a generative model's vision tower, without a question; by default the
        last one.
    at : {"last", "image"}, optional
        With `ask`: take the last position of the prompt, which is the default, or the mean over the
        positions of the image.
    choices : tuple of str
        With `ask`: the answers that the question lists, for the history.
    projection : bool
        Apply the projection into the space of texts, with which a CLIP's image tower ends.
    image_size : int, optional
        Give the image tower images of this edge, in pixels, with interpolated positions.
    batch_size : int
        Images that are encoded at once.
    num_workers : int, optional
        Threads that decode and preprocess; by default as many as there are cores, at most 8.
    non_blocking : bool
        Let `encode_images` return before a GPU has finished. The result waits when numpy reads it.
    """

    device: str = "auto"
    precision: str = "auto"
    untrained: int | None = None
    clean: bool = True
    layers: Sequence[int] | Literal["all"] | None = None
    pool: str | None = None
    norm: bool = False
    ask: str | None = None
    as_embedding: bool = False
    vision_tower: bool = False
    at: str | None = None
    choices: tuple[str, ...] = ()
    projection: bool = True
    image_size: int | None = None
    batch_size: int = 64
    num_workers: int | None = None
    non_blocking: bool = False

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> RunOptions:
        """Return options that are given by name; refuse a name that is none."""
        known = [field.name for field in fields(cls)]
        for name in settings:
            if name not in known:
                raise unknown("argument", name, known)
        return cls(**settings)

    def changes(self) -> dict[str, Any]:
        """Return the settings that a history records as they are given, if they are."""
        changes = {}
        for setting in model_settings.SETTINGS:
            is_kept = setting.name == "untrained" or bool(setting.suffix)
            if is_kept and setting.is_of_model and setting.is_chosen(self):
                changes[setting.key] = getattr(self, setting.name)
        return changes

    def check(self) -> None:
        """Refuse options that exclude or need each other."""
        if self.vision_tower:
            check_taken(self, VISION_TOWER, "--vision-tower")
            return
        if self.ask is not None:
            check_taken(self, ASKED, "--ask")
        flags = {setting.name: setting.flag for setting in model_settings.SETTINGS}
        for setting in model_settings.SETTINGS:
            needed = setting.needs
            if needed and setting.is_chosen(self) and getattr(self, needed) is None:
                raise UsageError(f"expected {flags[needed]} with {setting.flag}, got none")
        if self.choices and self.ask is None:
            raise UsageError("expected --ask with --choices, got none")
        if self.as_embedding and (self.at == "image" or self.choices or self.layers is not None):
            raise UsageError(
                "expected --as-embedding without --at image, --choices, --layer",
                "an embedding is the last hidden state of the last token",
            )
        if self.layers is not None and not self.projection:
            raise UsageError(
                "expected --layer or --no-projection, got both",
                "hidden states are not projected: leave --no-projection out",
            )


def check_taken(options: RunOptions, taken: Collection[str], what: str, hint: str = "") -> None:
    """Refuse a setting that is given, but not among the names of those that an encoder takes."""
    for setting in model_settings.SETTINGS:
        if setting.is_of_model and setting.name not in taken and setting.is_chosen(options):
            why = hint or f"leave {setting.flag} out"
            if setting.option.panel == GENERATIVE_PANEL:
                why = hint or f"{setting.flag} is for generative models"
            raise UsageError(f"expected no {setting.flag} with {what}, got one", why)
