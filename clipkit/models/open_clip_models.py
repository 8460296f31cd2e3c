"""Models of OpenCLIP: their towers, with weights as stored or at random.

A folder holds open_clip_config.json (`model_cfg` and `preprocess_cfg`), the weights as
open_clip_model.safetensors, and the files of the tokenizer unless that is OpenAI's.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.coca_model import CoCa
from open_clip.hf_configs import arch_dict
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

from clipkit.base.errors import ClipkitError, UsageError
from clipkit.models.acceleration import OPEN_CLIP_ACTIVATIONS
from clipkit.models.architecture import BUFFERS, Architecture, Tensors, check_number_of_layers
from clipkit.models.hub import ModelFiles, digest_file, fetch_config
from clipkit.models.libraries import quiet_loading, rust_panics, single_line_errors
from clipkit.models.preprocessing import MAX_EDGE, TransformPreprocessor
from clipkit.models.timm_models import describe_trunk, find_stack
from clipkit.models.tokenizer import TextTokenizer, switch_dropout_off, tokenizer_errors
from clipkit.models.towers import Stack, Tower, TowerName, find_token, largest_token, last_token
from clipkit.prompts.texts import MAX_CHARACTERS, quote

IMAGE_PREFIXES = ("visual.",)
TEXT_PREFIXES = ("text.",)
# A CLIP that is not of the class CustomTextCLIP holds its text tower's parts itself.
PLAIN_TEXT_PREFIXES = (
    *("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection"),
)
TIMM_NAME = re.compile(r"[\w.-]+")  # not hf-hub:NAME, which timm would fetch
# The settings of a tokenizer that a folder may choose. Others could fetch files, run code or draw
# tokens at random.
SIMPLE_SETTINGS = ("clean", "additional_special_tokens")
HF_SETTINGS = ("clean", "strip_sep_token", "language")
DEFAULT_CONTEXT = 77
# By the name of the module in a layer: the activation, as transformers calls it.
ACTIVATIONS = {
    **OPEN_CLIP_ACTIVATIONS,
    "GELUTanh": "gelu_pytorch_tanh",
    "GELUActivation": "gelu",
    "NewGELUActivation": "gelu_new",
    "ReLU": "relu",
    "SiLU": "silu",
}


class OpenClipModel(Architecture):
    """A model of OpenCLIP: the content of its open_clip_config.json."""

    library = "open_clip"
    towers = ("image", "text")

    def __init__(self, files: ModelFiles, settings: dict[str, Any], pixels: dict[str, Any]) -> None:
        self.files = files
        self.settings = settings
        self.pixels = pixels
        is_hf = "hf_model_name" in settings["text_cfg"]
        is_custom = self.settings.pop("custom_text", False) or is_hf
        self.model_class: Any = CLIP
        if is_custom:
            self.model_class = CoCa if "multimodal_cfg" in settings else CustomTextCLIP
        self.kind = self.model_class.__name__

    @classmethod
    def read(cls, files: ModelFiles) -> OpenClipModel:
        """Read open_clip_config.json."""
        content = files.read_json(files.config)
        with quiet_loading(f"{files.config} of {files.name}"):
            settings = content.get("model_cfg", {})
            missing = sorted({"embed_dim", "vision_cfg", "text_cfg"} - settings.keys())
            if missing:
                raise ValueError(f"expected a model_cfg with {missing[0]}, got none")
            _check_settings(settings)
            text = settings["text_cfg"]
            if "timm_model_name" in settings["vision_cfg"]:
                settings["vision_cfg"]["timm_model_pretrained"] = False
            if "hf_model_name" in text:
                text["hf_model_pretrained"] = False
                text["hf_model_name"] = str(_find_hf_config(files, text["hf_model_name"]))
            pixels = merge_preprocess_dict(asdict(PreprocessCfg()), content.get("preprocess_cfg"))
            model = cls(files, settings, pixels)
            _check_size(model.pixels_config.size)
        return model

    def new_model(self) -> Any:
        """Return all towers as open_clip initialises them; nothing is downloaded."""
        with quiet_loading(f"the architecture of {self.files.name}"):
            return self.model_class(**copy.deepcopy(self.settings))

    @property
    def dim(self) -> int:
        """The embedding size D."""
        return int(self.settings["embed_dim"])

    @property
    def pixels_config(self) -> PreprocessCfg:
        """The settings of the image transform; it has the size of the image tower."""
        return PreprocessCfg(**{**self.pixels, "size": self.outline.visual.image_size})

    def prefixes(self, tower: TowerName) -> tuple[str, ...]:
        """Return how the names of a tower's tensors start."""
        if tower == "image":
            return IMAGE_PREFIXES
        return PLAIN_TEXT_PREFIXES if self.model_class is CLIP else TEXT_PREFIXES

    def build(self, tower: TowerName, tensors: Tensors) -> Tower:
        """Build one tower with the given weights, in float32 and evaluation mode."""
        try:
            with parameters_without_numbers():
                model = self.new_model()
        except ClipkitError:  # timm runs the stem of a hybrid to learn the size of its output
            model = self.new_model()
        keep_tower(model, self.prefixes(tower))
        with quiet_loading(f"the weights of {self.files.name}"):
            weights = {}
            for name, own in model.state_dict().items():
                if name in tensors or BUFFERS.fullmatch(name):
                    tensor = tensors.get(name, own)
                    weights[name] = tensor.float() if tensor.is_floating_point() else tensor
            model.load_state_dict(weights, assign=True)
        model.requires_grad_(False).eval()
        encoder = ImageTower(model) if tower == "image" else TextTower(model)
        return Tower(encoder, "embedding")

    def stack(self, tower: Tower) -> Stack:
        """Return the layers of a tower."""
        model: Any = tower.model.clip
        if isinstance(tower.model, TextTower):
            return _text_stack(_text_part(model))
        return _find_image_stack(model.visual)

    def without_projection(self, tower: Tower) -> Tower:
        """Return a ViT that ends with its final norm, or a tower of timm that ends with its pool.

        The projection is taken out in place.
        """
        visual = tower.model.visual
        if getattr(visual, "proj", None) is not None:
            visual.proj = None
        elif hasattr(visual, "trunk") and not hasattr(visual.head, "pool"):
            if not len(visual.head) and not visual.trunk.num_classes:
                return super().without_projection(tower)
            visual.trunk.reset_classifier(0)  # the projection, where open_clip adds no head
            visual.head = torch.nn.Identity()
        else:  # an attention pool is one with its projection
            return super().without_projection(tower)
        return tower

    def digest_side_files(self) -> dict[str, str]:
        """Return the digests of the side files, and of a text tower's config.json from the Hub."""
        digests = self.files.digest_side_files()
        folder = self.settings["text_cfg"].get("hf_model_name")
        if folder:
            digests["text_cfg/config.json"] = digest_file(Path(folder) / "config.json")
        return digests

    def preprocessor(self, device: torch.device, dtype: torch.dtype) -> TransformPreprocessor:
        """Return the model's own transform for inference.

        It is a chain of torchvision's steps without state, so that threads can share it.
        """
        config = self.pixels_config
        with quiet_loading(f"the image transform of {self.files.name}"):
            transform = image_transform_v2(config, is_train=False)
        settings = {"processor": "image_transform_v2", **asdict(config)}
        return TransformPreprocessor(transform, settings, _edges(config.size)[0], device, dtype)

    def tokenizer(self, *, clean: bool) -> OpenClipTokenizer:
        """Return the model's own tokenizer."""
        return OpenClipTokenizer(
            self.files, self.settings["text_cfg"], self.vocabulary, clean=clean
        )

    @property
    def vocabulary(self) -> int:
        """The number of tokens that the text tower knows."""
        return int(_text_part(self.outline).vocab_size)

    def describe_towers(self) -> dict[str, dict[str, Any]]:
        """Return the layers, widths, heads and parameters of each tower, and what it takes."""
        visual = self.outline.visual
        text = _text_part(self.outline)
        settings = self.settings["text_cfg"]
        image = _describe_image(visual)
        with contextlib.suppress(ClipkitError):
            image["layers"] = len(_find_image_stack(visual).layers)
        return {
            "image": {
                **image,
                "parameters": self.parameters("image"),
                "image_size": _one_edge(visual.image_size),
                "activation": _activation(visual),
            },
            "text": {
                **_describe_text(text),
                "parameters": self.parameters("text"),
                "context_length": settings.get("context_length", DEFAULT_CONTEXT),
                "vocabulary": self.vocabulary,
                "activation": _activation(text.transformer),
            },
        }


ADAPTER = OpenClipModel


class ImageTower(torch.nn.Module):
    """The image tower of a model, as `encode_image` of open_clip runs it."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip

    @property
    def visual(self) -> Any:
        """What open_clip calls the image tower: a ViT, a ResNet or a `trunk` of timm."""
        return self.clip.visual

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Embed pixels (B, 3, H, W): (B, D), not normalised."""
        embeddings: torch.Tensor = self.clip.encode_image(pixel_values, normalize=False)
        return embeddings


class TextTower(torch.nn.Module):
    """The text tower of a model, as `encode_text` of open_clip runs it."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Embed tokens (B, T): (B, D), not normalised."""
        embeddings: torch.Tensor = self.clip.encode_text(input_ids, normalize=False)
        return embeddings


@contextlib.contextmanager
def parameters_without_numbers() -> Iterator[None]:
    """Build modules with parameters on PyTorch's device `meta`, to be given numbers later.

    Their buffers hold numbers, since those that are not stored are known to the constructor alone:
    a causal mask, the angles of a rotary embedding.
    """
    module: Any = torch.nn.Module
    register = module.register_parameter

    def register_without_numbers(self: Any, name: str, parameter: Any) -> None:
        if parameter is not None and parameter.device.type != "meta":
            needs_grad = parameter.requires_grad
            parameter = torch.nn.Parameter(parameter.to("meta"), requires_grad=needs_grad)
        register(self, name, parameter)

    module.register_parameter = register_without_numbers
    try:
        yield
    finally:
        module.register_parameter = register


def keep_tower(model: Any, prefixes: Sequence[str]) -> None:
    """Delete the parts of a model that have none of these prefixes."""
    names = {prefix.rstrip(".") for prefix in prefixes}
    parts = [name for name, _ in model.named_children()]
    parts += [name for name, _ in model.named_parameters(recurse=False)]
    for name in parts:
        if name not in names:
            delattr(model, name)


def _text_part(model: Any) -> Any:
    """Return the text tower of a model; one of the class CLIP holds its parts itself."""
    return getattr(model, "text", model)


class OpenClipTokenizer(TextTokenizer):
    """A model's tokenizer of open_clip: OpenAI's, or one of transformers from the model's folder.

    Both clean a text themselves, after ftfy and the decoding of HTML entities: `cleaning` is
    ``lower``, ``whitespace`` or ``canonicalize`` (in lower case, without punctuation; not without
    `clean`).
    """

    def __init__(
        self, files: ModelFiles, text: dict[str, Any], vocabulary: int, *, clean: bool
    ) -> None:
        self.name = files.name
        self.context_length = text.get("context_length", DEFAULT_CONTEXT)
        self.vocabulary = vocabulary
        settings = dict(text.get("tokenizer_kwargs") or {})
        self.is_simple = not text.get("hf_tokenizer_name")
        self.cleaning = settings.get("clean", "lower" if self.is_simple else "whitespace")
        if self.cleaning == "canonicalize" and not clean:
            self.cleaning = settings["clean"] = "whitespace"
        # CLIP's pooled token is the one with the largest number: the end token.
        self.takes_last = self.is_simple and text.get("pool_type", "argmax") == "argmax"
        self.tail = 0
        known = SIMPLE_SETTINGS if self.is_simple else HF_SETTINGS
        other = sorted(settings.keys() - set(known))
        if other:
            raise ClipkitError(
                f"{self.name}: expected tokenizer_kwargs of {', '.join(known)}, got {other[0]!r}"
            )
        settings["context_length"] = self.context_length
        if self.is_simple:
            with quiet_loading(f"the tokenizer of {files.name}"):
                self.tokenizer: Any = SimpleTokenizer(**settings)
            return
        mode = text.get("tokenizer_mode")
        if mode:
            settings["tokenizer_mode"] = mode
            self.tail = 3  # of the mode "clips": a start, an end and a class token
        with tokenizer_errors(files), files.side_folder() as folder:
            self.tokenizer = HFTokenizer(str(folder), trust_remote_code=False, **settings)
        switch_dropout_off(files, self.tokenizer.tokenizer)

    def clean(self, texts: Sequence[str], places: Sequence[str]) -> list[str]:
        """Return the texts as they are, since the tokenizer cleans them; none may be left empty."""
        if self.cleaning == "canonicalize":
            cleaned = [self.tokenizer.clean_fn(text) for text in texts]
            self.check_left(cleaned, texts, places)
        return list(texts)

    def lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Count the tokens of each text, special ones included: K texts -> (K,)."""
        with single_line_errors(f"tokenize with {self.name}"), rust_panics():
            return np.array([self._length(text) for text in texts], np.int64)

    def _length(self, text: str) -> int:
        if self.is_simple:
            return len(self.tokenizer.encode(text)) + 2  # the start and the end token
        tokens = self.tokenizer.tokenizer(
            self.tokenizer.clean_fn(text),
            add_special_tokens=not self.tail,
            truncation=False,
            verbose=False,
        )["input_ids"]
        return len(tokens) + self.tail

    def tokens(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the padded tokens (B, T) of B texts, cut to `context_length`."""
        with single_line_errors(f"tokenize with {self.name}"), rust_panics():
            tokens: torch.Tensor = self.tokenizer(list(texts))
        self.check_vocabulary(tokens, self.vocabulary)
        if self.takes_last:
            self._check_ends(texts, tokens)
        return tokens

    def _check_ends(self, texts: Sequence[str], tokens: torch.Tensor) -> None:
        """Check that the first end token of each text is its last token; 0 is padding."""
        end = self.tokenizer.eot_token_id
        counts = (tokens == end).sum(dim=1)
        (wrong,) = torch.nonzero((counts != 1) | (tokens.max(dim=1).values != end), as_tuple=True)
        if len(wrong):
            text = texts[int(wrong[0])]
            raise ClipkitError(
                f"{self.name}: expected the end token {end} once, as a prompt's last token, got "
                f"other tokens for {quote(text)}",
                "take <end_of_text> out of the prompt",
            )


def _check_settings(settings: dict[str, Any]) -> None:
    """Refuse settings that take forever to build, or that fetch files."""
    vision = settings["vision_cfg"]
    text = settings["text_cfg"]
    for cfg in (vision, text, settings.get("multimodal_cfg", {})):
        layers = cfg.get("layers", 1)
        counts = layers if isinstance(layers, list) else [layers]  # of each stage of a ResNet
        for count in counts:
            check_number_of_layers("layers", count)
        length = cfg.get("context_length", DEFAULT_CONTEXT)
        if not 1 <= length <= MAX_CHARACTERS:  # the causal mask has the square of this
            raise ValueError(f"expected a context_length of 1 to {MAX_CHARACTERS}, got {length}")
    name = vision.get("timm_model_name", "")
    if name and not TIMM_NAME.fullmatch(name):
        raise ValueError(f"expected the name of a model of timm as timm_model_name, got {name!r}")
    _check_size(vision.get("image_size", 224))


def _check_size(size: Any) -> None:
    for edge in _edges(size):
        if not 1 <= edge <= MAX_EDGE:
            raise ValueError(f"expected an image_size of 1 to {MAX_EDGE}, got {edge}")


def _edges(size: Any) -> list[int]:
    return list(size) if isinstance(size, (tuple, list)) else [size, size]


def _one_edge(size: Any) -> int | list[int]:
    """Return the edge of a square, else the height and the width."""
    height, width = _edges(size)
    return height if height == width else [height, width]


def _find_hf_config(files: ModelFiles, name: str) -> Path:
    """Return the folder of a text tower's config.json: within the model's folder, or fetched.

    open_clip asks the Hub for it, and publishes a model without it.
    """
    folder = fetch_config(files, name)
    kind = ModelFiles(name, folder, ()).read_json("config.json").get("model_type")
    if kind not in arch_dict:
        raise ValueError(
            f"expected a text tower of one of the types {', '.join(arch_dict)}, got {kind!r}"
        )
    return folder


def _find_image_stack(visual: Any) -> Stack:
    """Return the layers of a ViT or of a model of timm, or the stages of a ResNet."""
    if hasattr(visual, "trunk"):
        return find_stack(visual.trunk)
    if hasattr(visual, "attnpool"):
        stages = [visual.layer1, visual.layer2, visual.layer3, visual.layer4]
        return Stack(stages, None)
    # an attentional pooler goes before ln_post, which is then of another width
    norm = visual.ln_post if visual.attn_pool is None else None
    return Stack(visual.transformer.resblocks, norm, prefix=1, has_cls=True)


def _text_stack(text: Any) -> Stack:
    """Return the layers of a text tower of open_clip's own."""
    if not hasattr(text.transformer, "resblocks"):
        raise UsageError(
            "expected a text tower of open_clip's own, got one of transformers, which has no known "
            "pooled token",
            "leave --layer out",
        )
    return Stack(text.transformer.resblocks, text.ln_final, pooled_token=_pooled_token(text))


def _pooled_token(text: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return a function from token ids (B, T) to the position (B) of the token that is pooled."""
    if getattr(text, "cls_emb", None) is not None:  # a token behind all others, as in CoCa
        return lambda ids: ids.new_full(ids.shape[:1], ids.shape[1])
    # of a text tower within a CLIP, or of one alone
    kind = getattr(text, "text_pool_type", None) or text.pool_type
    if kind == "first":
        return lambda ids: ids.new_zeros(ids.shape[:1])
    if kind == "last":
        return last_token
    if kind == "argmax":
        return largest_token
    if kind == "eos":
        end = getattr(text, "text_eos_id", None) or text.eos_id
        return partial(find_token, token=end)
    return None


def _describe_image(visual: Any) -> dict[str, Any]:
    """Return what is known of an image tower."""
    if hasattr(visual, "trunk"):
        return describe_trunk(visual.trunk)
    if hasattr(visual, "attnpool"):
        return {"width": visual.attnpool.c_proj.in_features}
    return {
        "width": visual.transformer.width,
        "heads": visual.transformer.resblocks[0].attn.num_heads,
        "patch_size": _one_edge(visual.patch_size),
    }


def _describe_text(text: Any) -> dict[str, Any]:
    """Return what is known of a text tower."""
    transformer = text.transformer
    if hasattr(transformer, "resblocks"):
        heads = transformer.resblocks[0].attn.num_heads
        return {"layers": transformer.layers, "width": transformer.width, "heads": heads}
    config = transformer.config
    names = arch_dict[config.model_type]["config_names"]
    return {key: getattr(config, names[key]) for key in ("layers", "width", "heads")}


def _activation(tower: Any) -> str:
    """Return the name of a tower's first activation."""
    for module in tower.modules():
        name = ACTIVATIONS.get(type(module).__name__)
        if name == "gelu" and getattr(module, "approximate", "none") == "tanh":
            return "gelu_pytorch_tanh"
        if name:
            return name
    return "unknown"
