"""What changes the input or the output of a model: one record for each setting of `embed`.

A setting is an option of `embed`, a member of its history's entry, and a field of
`models.RunOptions`. From its record follow the option, the command line that a page rebuilds, the
name of a model, the label of a curve, and which files may be joined and compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from clipkit.base.errors import UsageError, shorten
from clipkit.base.options import (
    DATA_PANEL,
    GENERATIVE_PANEL,
    LAYERS_PANEL,
    MODEL_PANEL,
    OUTPUT_PANEL,
    Option,
    choice,
    flag,
    option,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    from clipkit.features.history import History

LAYERS = re.compile(r"(?P<layer>-?[0-9]{1,4})|(?P<first>[0-9]{1,4})-(?P<last>[0-9]{1,4})")
# How a label calls the hidden states that are taken
POOLS = {"cls": "CLS token", "mean": "mean of patches"}
POSITIONS = {"last": "last token", "image": "image tokens"}  # of a generative model
Words = str | Callable[[Mapping[str, Any], str], str]  # {} stands for the value


@dataclass(frozen=True)
class Setting:
    """What changes the input or the output of a model.

    Parameters
    ----------
    name : str
        The parameter of `embed`. A setting with a member of the model is a field of `RunOptions`.
    option : Option
        Its `member` is where the history has the value.
    kind : type
        What the option takes.
    default : object
        The value without the option.
    parse : callable, optional
        Make the field of `RunOptions` from the option's value.
    needs : str
        The name of the setting without which this one has no meaning.
    feature, suffix : str or callable (model, value) -> str
        What the name of a model says: which features of it were taken, and how its images were
        changed. With neither, embeddings have one name whatever the setting is.
    label : str or callable
        What the label of a curve says; by default `suffix`.
    has_texts : bool
        Whether `textembed` has the option, too.
    compares, joins : bool
        Whether embeddings that differ in it may be used together, such as images and texts; and
        whether they may be joined in a file. Those of other features may neither.
    kinds : tuple of str
        The kinds of files that it changes.
    change : callable (image, value) -> image, optional
        What it does to each image before the model's own preprocessing. An image that needs no
        change is returned itself. The member is `dataset.<name>`.
    """

    name: str
    option: Option
    kind: Any = bool
    default: Any = False
    parse: Callable[[Any], Any] | None = None
    needs: str = ""
    feature: Words = ""
    suffix: Words = ""
    label: Words = ""
    has_texts: bool = False
    compares: bool = True
    joins: bool = False
    kinds: tuple[str, ...] = ("images", "texts", "logits")
    change: Callable[[Image, Any], Image] | None = None

    @property
    def flag(self) -> str:
        """The option as it is typed."""
        return self.option.flag

    @property
    def member(self) -> str:
        """The path of the value in the entry of a history."""
        return self.option.member or self.name

    @property
    def key(self) -> str:
        """The last part of the path."""
        return self.member.rpartition(".")[2]

    @property
    def is_of_model(self) -> bool:
        """Whether the history's model has the value, and so whether `RunOptions` has the field."""
        return self.member.startswith("model.")

    @property
    def is_of_images(self) -> bool:
        """Whether it changes images before the model sees them."""
        return self.change is not None

    @property
    def is_named(self) -> bool:
        """Whether the name of a model says it."""
        return bool(self.feature or self.suffix)

    @property
    def is_variation(self) -> bool:
        """Whether it makes another experiment, and not only together with another setting."""
        return self.is_named and not self.needs

    def value(self, history: History) -> Any:
        """Return what a history says of the setting; None for nothing and for the default."""
        values = [entry.member(self.member) for entry in history]
        if self.is_of_model:
            values = [history.model.get(self.key)]
        for value in values:
            if value is not None and value != self.default:
                return value
        return None

    def run_value(self, value: Any) -> Any:
        """Return the value of the field of `RunOptions`, given the option's."""
        return value if self.parse is None else self.parse(value)

    def is_chosen(self, options: Any) -> bool:
        """Whether `RunOptions` have another value than the default."""
        default = self.run_value(self.default)
        return bool(getattr(options, self.name, default) != default)


def say(words: Words, model: Mapping[str, Any], value: Any) -> str:
    """Return what words of a setting say of its value; "" without a value."""
    if value is None or value is False:
        return ""
    text = shorten(value)
    return words(model, text) if callable(words) else words.format(text)


def parse_layers(text: str | None) -> list[int] | Literal["all"] | None:
    """Return the numbers of a list of layers such as `0,4-6,-1`, or "all"."""
    if text is None:
        return None
    if text == "all":
        return "all"
    numbers: list[int] = []
    for part in text.split(","):
        match = LAYERS.fullmatch(part.strip())
        if match and match["layer"]:
            numbers.append(int(match["layer"]))
        elif match and int(match["first"]) < int(match["last"]):
            numbers += range(int(match["first"]), int(match["last"]) + 1)
        else:
            raise UsageError(
                f"layer: expected numbers such as 4 or 0,4-6,-1, got {part!r}",
                "the last is -1, and all of them: all",
            )
    return numbers


def _name_layers(model: Mapping[str, Any], value: str) -> str:
    words = f"layer {value}"
    if isinstance(model["layer"], list):  # of an encoder of several layers
        words = f"layers {value.strip('[]')}"
    return f"vision tower {words}" if model.get("vision_tower") else words


def _name_position(model: Mapping[str, Any], value: str) -> str:
    """Name the position of a layer; that of an embedding only if it is not the answer's."""
    if "layer" in model:
        return "" if "pool" in model else value
    return "at the image" if value == "image" else ""


def _shrink(image: Image, pixels: int) -> Image:
    """Return an image whose shorter side has so many pixels; a smaller one as it is."""
    from PIL.Image import Resampling

    shorter = min(image.size)
    if shorter <= pixels:
        return image
    width, height = (round(side * pixels / shorter) for side in image.size)
    return image.resize((width, height), Resampling.BICUBIC)  # which is antialiased


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "untrained",
        option(
            "SEED",
            "Use the same architecture at random initialisation, as a control.",
            "--untrained",
            member="model.untrained",
            min=0,
            max=2**63 - 1,  # what PyTorch takes
        ),
        kind=int | None,
        default=None,
        has_texts=True,
        compares=False,
    ),
    Setting(
        "layers",
        option(
            "L[,L...]",
            "Write hidden states instead of embeddings: 0 is the input of the first layer, -1 the "
            "output of the last; also a range such as 0-12, or all.",
            "--layers",
            "--layer",
            member="model.layer",
            panel=LAYERS_PANEL,
        ),
        kind=str | None,
        default=None,
        parse=parse_layers,
        feature=_name_layers,
    ),
    Setting(
        "pool",
        choice(
            ("cls", "mean"),
            "With --layer: CLS token or mean of patches (default: cls where there is one).",
            "--pool",
            member="model.pool",
            panel=LAYERS_PANEL,
        ),
        kind=str | None,
        default=None,
        needs="layers",
        feature="{}",
        label=lambda _, value: POOLS.get(value, value),
    ),
    Setting(
        "norm",
        flag(
            "--norm",
            "With --layer: apply the model's final norm.",
            member="model.norm",
            panel=LAYERS_PANEL,
        ),
        needs="layers",
        feature="normed",
        label="normed",
        has_texts=True,
    ),
    Setting(
        "projection",
        flag(
            "--no-projection",
            "Leave out the projection into the space that images share with texts.",
            member="model.projection",
            panel=LAYERS_PANEL,
        ),
        parse=lambda is_left_out: not is_left_out,
        feature="without projection",
    ),
    Setting(
        "ask",
        option(
            "QUESTION",
            "Ask a generative model this about each image.",
            "--ask",
            member="model.question",
            panel=GENERATIVE_PANEL,
        ),
        kind=str | None,
        default=None,
        label='"{}"',
        has_texts=True,
    ),
    Setting(
        "as_embedding",
        flag(
            "--as-embedding",
            "With --ask: take the last hidden state as an embedding, which is compared by cosine. "
            "In textembed, {} in the question stands for the text.",
            member="model.as_embedding",
            panel=GENERATIVE_PANEL,
        ),
        needs="ask",
        has_texts=True,
    ),
    Setting(
        "vision_tower",
        flag(
            "--vision-tower",
            "Read the layers of a generative model's vision tower, by default the last one.",
            member="model.vision_tower",
            panel=GENERATIVE_PANEL,
        ),
    ),
    Setting(
        "at",
        choice(
            ("last", "image"),
            "With --ask: last token of the prompt, where the answer begins, or mean of the image's "
            "tokens (default: last).",
            "--at",
            member="model.at",
            panel=GENERATIVE_PANEL,
        ),
        kind=str | None,
        default=None,
        needs="ask",
        feature=_name_position,
        label=lambda _, value: POSITIONS.get(value, value),
    ),
    Setting(
        "image_size",
        option(
            "N",
            "Give the model images of N x N pixels, with interpolated positions.",
            "--image-size",
            member="model.image_size",
            min=1,
            max=4096,
            panel=MODEL_PANEL,
        ),
        kind=int | None,
        default=None,
        suffix="taking {} px",
    ),
    Setting(
        "downsample",
        option(
            "N",
            "First shrink images to N pixels on the shorter side; smaller ones stay as they are.",
            "--downsample",
            member="dataset.downsample",
            min=1,
            panel=DATA_PANEL,
        ),
        kind=int | None,
        default=None,
        suffix="at {} px",
        label="images of {} pixels",
        change=_shrink,
    ),
    Setting(
        "normalize",
        flag("--normalize/--no-normalize", "Scale each embedding to length 1.", panel=OUTPUT_PANEL),
        has_texts=True,
        kinds=("images",),  # cosines with texts do not depend on lengths
    ),
    Setting(
        "precision",
        option(
            "PRECISION",
            "Precision to compute in: fp64, fp32, bf16, fp16, or auto (fp64 for bundled models, "
            "fp32 for texts, and the device's fastest for images).",
            "--precision",
            member="model.precision",
            choices=("auto", "fp64", "fp32", "bf16", "fp16"),
            panel=MODEL_PANEL,
        ),
        kind=str,
        default="auto",
        has_texts=True,
        joins=True,
    ),
)


def feature_name(model: Mapping[str, Any]) -> str:
    """Return which features of a model an entry of a history names: "" for its embeddings.

    >>> feature_name({"name": "m", "layer": 4, "layers": 12, "pool": "mean", "norm": True})
    'layer 4 mean normed'
    >>> feature_name({"name": "m", "projection": "none"}), feature_name({"name": "m"})
    ('without projection', '')
    """
    words = [say(one.feature, model, model.get(one.key)) for one in SETTINGS if one.feature]
    return " ".join(filter(None, words))


def name_suffix(history: History) -> str:
    """Return how the name of a model says that its images were changed, as `at 32 px`."""
    words = [say(one.suffix, history.model, one.value(history)) for one in SETTINGS]
    return " ".join(filter(None, words))


def labels_of(history: History) -> dict[str, str]:
    """Return what the label of a curve says of settings, by their names."""
    labels = {}
    for setting in SETTINGS:
        text = say(setting.label or setting.suffix, history.model, setting.value(history))
        if text:
            labels[setting.name] = text
    return labels
