"""CLIP's towers in PyTorch alone.

Importing transformers' classes, which import torchvision, takes twice as long as importing PyTorch
and far longer than embedding a few prompts. These towers repeat the operations of those classes one
by one, and so give the same bits. They read models with known settings. transformers reads all
others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE
from torch.nn import functional

from clipkit.features.history import MAX_LAYERS
from clipkit.models.architecture import Tensors
from clipkit.models.families import FAMILIES, end_token, find_family
from clipkit.models.hub import ModelFiles
from clipkit.models.libraries import rust_panics, single_line_errors
from clipkit.models.tokenizer import Tokenizer, stored_class
from clipkit.models.towers import Tower, TowerName
from clipkit.models.transformers_models import PREFIXES, TransformersModel

ACTIVATIONS: dict[str, Any] = {  # by transformers' name
    "gelu": functional.gelu,
    "gelu_pytorch_tanh": partial(functional.gelu, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": functional.relu,
}
# What both towers must give, as the published ones do; what else a text tower, and an image tower
TOWER_SETTINGS = (
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers"),
    *("hidden_act", "layer_norm_eps"),
)
TEXT_SETTINGS = (*TOWER_SETTINGS, "vocab_size", "max_position_embeddings")
IMAGE_SETTINGS = (*TOWER_SETTINGS, "image_size", "patch_size")
# The types of settings: transformers checks them, even where they decide no embedding
TYPES = (
    dict.fromkeys((*TEXT_SETTINGS, *IMAGE_SETTINGS, "projection_dim", "num_channels"), int)
    | dict.fromkeys(("layer_norm_eps", "attention_dropout", "logit_scale_init_value"), float)
    | dict.fromkeys(("initializer_range", "initializer_factor"), float)
    | {"hidden_act": str}
)
TOKENS = {"eos_token_id": None, "bos_token_id": 0, "pad_token_id": 0}  # and their defaults
# Settings with values that are not the usual ones are left to transformers, too
USUAL = {
    "dtype": ("float16", "bfloat16", "float32"),
    "torch_dtype": ("float16", "bfloat16", "float32"),
    "id2label": ({"0": "LABEL_0", "1": "LABEL_1"},),
    "hidden_act": tuple(ACTIVATIONS),
}
# Settings that replace others, or choose other operations
OTHER_SETTINGS = (
    *("text_config_dict", "vision_config_dict", "quantization_config"),
    *("attn_implementation", "_attn_implementation"),
)


class PlainClip(TransformersModel):
    """One tower of a CLIP of transformers."""

    def __init__(self, files: ModelFiles, config: Any, tower: TowerName) -> None:
        super().__init__(files, FAMILIES["clip"], config)
        self.tower = tower

    @classmethod
    def read_known(cls, files: ModelFiles, tower: TowerName) -> PlainClip | None:
        """Read config.json; return None if transformers has to read it, or to say what is wrong."""
        if files.library != "transformers":
            return None
        content = files.read_json("config.json")
        if content["model_type"] != "clip" or not _is_known(content):
            return None
        if find_family(files.name, content).section:  # a classifier
            return None
        text = content["text_config"] | {"model_type": "clip_text_model"}
        vision = content["vision_config"] | {"model_type": "clip_vision_model"}
        config = SimpleNamespace(**content)
        config.text_config = SimpleNamespace(**text)
        config.vision_config = SimpleNamespace(**vision)
        return cls(files, config, tower)

    def new_model(self) -> PlainTower:
        """Return the tower."""
        with single_line_errors(f"load the architecture of {self.files.name}"):
            return PlainTower(self.tower, self.tower_config(self.tower), self.config.projection_dim)

    def build(self, tower: TowerName, tensors: Tensors) -> Tower:
        """Build the tower with the given weights, in float32 and evaluation mode."""
        with torch.device("meta"):
            model = self.new_model()
        weights = {name: tensors[name].float() for name in model.state_dict()}
        model.load_state_dict(weights, assign=True)
        return Tower(model.eval(), self.family.outputs[tower])

    def tokenizer(self, *, clean: bool) -> Tokenizer:
        """Return the model's own tokenizer."""
        backend = read_backend(self.files)
        if backend is None:
            return super().tokenizer(clean=clean)
        return ClipTokenizer(self.files, self.config, backend, clean=clean)


def _is_known(content: dict[str, Any]) -> bool:
    """Return whether a config.json gives all that a CLIP needs, and nothing unusual.

    The image tower's settings count, too: `textembed` refuses what `embed` refuses.
    """
    text, vision = content.get("text_config"), content.get("vision_config")
    if not isinstance(text, dict) or not isinstance(vision, dict):
        return False
    for name, default in TOKENS.items():
        if type(text.get(name, default)) is not int:
            return False
    return (
        _has_known_types(content, ("projection_dim",))
        and _is_known_tower(text, TEXT_SETTINGS)
        and _is_known_tower(vision, IMAGE_SETTINGS)
    )


def _is_known_tower(config: dict[str, Any], required: Iterable[str]) -> bool:
    return (
        _has_known_types(config, required)
        and config["num_hidden_layers"] <= MAX_LAYERS
        and config["hidden_size"] % config["num_attention_heads"] == 0
    )


def _has_known_types(config: dict[str, Any], required: Iterable[str]) -> bool:
    """Return whether no required setting is missing, and all have usual types and values."""
    if not config.keys() >= set(required):
        return False
    for name, value in config.items():
        kind = TYPES.get(name)
        if kind and type(value) is not kind:
            return False
        if (kind is int and value < 1) or (kind is float and not value >= 0):  # NaN, too
            return False
        if value is not None and (name in OTHER_SETTINGS or value not in USUAL.get(name, (value,))):
            return False
    return True


class PlainTower(torch.nn.ModuleDict):
    """A tower with its projection: tokens or pixels -> (B, D). Parts have transformers' names."""

    def __init__(self, tower: TowerName, config: Any, dim: int) -> None:
        model = TextModel(config) if tower == "text" else VisionModel(config)
        projection = torch.nn.Linear(config.hidden_size, dim, bias=False)
        names = [prefix.removesuffix(".") for prefix in PREFIXES[tower]]
        super().__init__(dict(zip(names, (model, projection), strict=True)))
        self.config = config

    def forward(self, **inputs: torch.Tensor) -> Any:
        """Embed the inputs."""
        model, projection = self.values()
        return projection(model(**inputs))


class TextModel(torch.nn.Module):
    """A text tower without its projection: tokens (B, T) -> the end token (B, width)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        positions = config.max_position_embeddings
        self.embeddings = _embeddings(config, token=config.vocab_size, position=positions)
        self.encoder = _layers(config, is_causal=True)
        self.final_layer_norm = _norm(config)
        self.end_token = end_token(config)

    def forward(self, input_ids: torch.Tensor) -> Any:
        """Return the end token after the last layer."""
        x = self.embeddings.token_embedding(input_ids)  # (B, T, width)
        x = x + self.embeddings.position_embedding.weight[: input_ids.shape[1]]
        for layer in self.encoder.layers:
            x = layer(x)
        x = self.final_layer_norm(x)
        rows = torch.arange(len(x), device=x.device)
        return x[rows, self.end_token(input_ids)]


class VisionModel(torch.nn.Module):
    """An image tower without its projection: pixels (B, 3, H, W) -> the CLS token (B, width)."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        edge = config.patch_size
        channels = getattr(config, "num_channels", 3)
        self.embeddings = _embeddings(config, position=(config.image_size // edge) ** 2 + 1)
        self.embeddings.class_embedding = torch.nn.Parameter(torch.empty(width))
        self.embeddings.patch_embedding = torch.nn.Conv2d(channels, width, edge, edge, bias=False)
        self.pre_layrnorm = _norm(config)
        self.encoder = _layers(config, is_causal=False)
        self.post_layernorm = _norm(config)

    def forward(self, pixel_values: torch.Tensor) -> Any:
        """Return the CLS token after the last layer."""
        embeddings = self.embeddings
        patches = embeddings.patch_embedding(pixel_values).flatten(2).transpose(1, 2)
        cls = embeddings.class_embedding.expand(len(patches), 1, -1)
        x = torch.cat([cls, patches], dim=1) + embeddings.position_embedding.weight
        x = self.pre_layrnorm(x)  # (B, T, width)
        for layer in self.encoder.layers:
            x = layer(x)
        return self.post_layernorm(x[:, 0])


def _embeddings(config: Any, **rows: int) -> Any:
    # `from_pretrained` takes an empty tensor. Random numbers for the device "meta" would import
    # PyTorch's compiler.
    table: Any = torch.nn.Embedding.from_pretrained
    tables = torch.nn.ModuleDict()
    for name, count in rows.items():
        tables[f"{name}_embedding"] = table(torch.empty(count, config.hidden_size))
    return tables


def _layers(config: Any, *, is_causal: bool) -> Any:
    layers = [Layer(config, is_causal=is_causal) for _ in range(config.num_hidden_layers)]
    return torch.nn.ModuleDict({"layers": torch.nn.ModuleList(layers)})


def _norm(config: Any) -> torch.nn.LayerNorm:
    return torch.nn.LayerNorm(config.hidden_size, config.layer_norm_eps)


class Layer(torch.nn.Module):
    """One layer: attention and MLP, each with LayerNorm before it and a residual."""

    def __init__(self, config: Any, *, is_causal: bool) -> None:
        super().__init__()
        width = config.hidden_size
        inner = config.intermediate_size
        linear = torch.nn.Linear
        names = ("k_proj", "v_proj", "q_proj", "out_proj")
        self.self_attn: Any = torch.nn.ModuleDict({name: linear(width, width) for name in names})
        self.self_attn.num_heads = config.num_attention_heads
        self.layer_norm1 = _norm(config)
        self.mlp: Any = torch.nn.ModuleDict(
            {"fc1": linear(width, inner), "fc2": linear(inner, width)}
        )
        self.layer_norm2 = _norm(config)
        self.activation = ACTIVATIONS[config.hidden_act]
        self.is_causal = is_causal

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer: (B, T, width) -> (B, T, width)."""
        batch, tokens, width = x.shape
        normed = self.layer_norm1(x)
        attention = self.self_attn
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        heads = attention.num_heads
        shape = (batch, tokens, heads, width // heads)
        q, k, v = (project(normed).view(shape).transpose(1, 2) for project in projections)
        attended = functional.scaled_dot_product_attention(
            q, k, v, is_causal=self.is_causal and tokens > 1, scale=shape[-1] ** -0.5
        )
        x = x + attention.out_proj(attended.transpose(1, 2).reshape(batch, tokens, width))
        inner = self.activation(self.mlp.fc1(self.layer_norm2(x)))
        output: torch.Tensor = x + self.mlp.fc2(inner)
        return output


START, END = "<|startoftext|>", "<|endoftext|>"
SPECIAL_TOKENS = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
CLIP_CLASSES = ("CLIPTokenizer", "CLIPTokenizerFast")  # the class has their rules
OTHER_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")  # theirs are in tokenizer.json
# Other settings of tokenizer_config.json that change no token
IGNORED = {
    *("tokenizer_class", "model_max_length", "name_or_path", "special_tokens_map_file", "backend"),
    *("do_lower_case", "errors", "clean_up_tokenization_spaces", "is_local", "local_files_only"),
    *("processor_class", "added_tokens_decoder"),
}
# Rules of a BPE that CLIP's does not have
OTHER_RULES = ("continuing_subword_prefix", "dropout", "fuse_unk", "byte_fallback", "ignore_merges")
SUFFIX = "</w>"
SPLIT = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
MAX_VOCABULARY = 100_000  # transformers changes the rules of larger ones


class ClipTokenizer(Tokenizer):
    """CLIP's tokenizer, as `read_backend` returns it."""

    end_text = END

    def __init__(
        self, files: ModelFiles, model_config: Any, backend: Backend, *, clean: bool = True
    ) -> None:
        self.tokenizer: Any = backend
        super().__init__(files, model_config, "longest", clean=clean)

    def _load(self, files: ModelFiles) -> str:
        return stored_class(files)

    def _ids(self, texts: list[str]) -> list[list[int]]:
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        return [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]

    def _padded(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        self.tokenizer.enable_truncation(self.context_length)
        self.tokenizer.enable_padding(pad_id=self.tokenizer.token_to_id(END), pad_token=END)
        encodings = self.tokenizer.encode_batch(texts)
        tokens = torch.tensor([encoding.ids for encoding in encodings])
        return tokens, torch.tensor([encoding.attention_mask for encoding in encodings])


def read_backend(files: ModelFiles) -> Backend | None:
    """Read a tokenizer; return None if transformers has to read it, or to say what is wrong."""
    # errors of tokenizers have no common base
    with contextlib.suppress(Exception), rust_panics():
        if _has_other_rules(files):
            return None
        settings = files.read_json("tokenizer_config.json")
        backend = _read_vocabulary(files.folder, settings)
        is_known = _has_known_settings(files, settings) and _has_known_tokens(backend, settings)
        name = settings["tokenizer_class"]
        model: Any = backend.model
        is_bpe_of_clip = model.unk_token == END and model.end_of_word_suffix == SUFFIX
        if is_known and name in CLIP_CLASSES and is_bpe_of_clip:
            return _with_rules_of_clip(backend)
        if is_known and name in OTHER_CLASSES and backend.post_processor is not None:
            return backend
    return None


def _has_other_rules(files: ModelFiles) -> bool:
    """Return whether tokenizer.json has rules that CLIP's BPE lacks.

    With some of them, tokenizers ends the process, where transformers drops them.
    """
    if not (files.folder / "tokenizer.json").exists():
        return False
    model = files.read_json("tokenizer.json")["model"]
    return any(model.get(rule) for rule in OTHER_RULES)


def _read_vocabulary(folder: Path, settings: dict[str, Any]) -> Backend:
    """Read tokenizer.json, or the two files of older models."""
    if (folder / "tokenizer.json").exists():
        return Backend.from_file(str(folder / "tokenizer.json"))
    files = [str(folder / name) for name in ("vocab.json", "merges.txt")]
    backend = Backend(BPE.from_file(*files, unk_token=END, end_of_word_suffix=SUFFIX))
    backend.add_special_tokens([settings["bos_token"], settings["eos_token"]])
    return backend


def _has_known_settings(files: ModelFiles, settings: dict[str, Any]) -> bool:
    """Return whether the special tokens are the usual ones, and no setting changes a token."""
    settings = {name: settings[name] for name in settings.keys() - IGNORED}
    if (files.folder / "special_tokens_map.json").exists():
        settings |= files.read_json("special_tokens_map.json")
    for name, usual in SPECIAL_TOKENS.items():
        token = settings.pop(name, usual)
        if isinstance(token, dict) and (files.folder / "tokenizer.json").exists():
            token = token["content"]  # that file has its other properties
        if token != usual:
            return False
    is_known = not settings.pop("add_prefix_space", False) and not settings
    return is_known and not (files.folder / "added_tokens.json").exists()


def _has_known_tokens(backend: Backend, settings: dict[str, Any]) -> bool:
    """Return whether a vocabulary has the special tokens, and the settings add no other ones."""
    added = {number: repr(token) for number, token in backend.get_added_tokens_decoder().items()}
    expected = settings.get("added_tokens_decoder", {}).items()
    if added.keys() != {backend.token_to_id(START), backend.token_to_id(END)}:
        return False
    for number, token in expected:
        if added.get(int(number)) != repr(AddedToken(**token)):
            return False
    return backend.get_vocab_size() < MAX_VOCABULARY


def _with_rules_of_clip(stored: Any) -> Backend:
    """Return a tokenizer with the rules of CLIP, whatever the rules in a file are."""
    backend = Backend(stored.model)
    backend.add_tokens(list(stored.get_added_tokens_decoder().values()))
    spaces = normalizers.Replace(Regex(r"\s+"), " ")
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(SPLIT), "removed", invert=True)
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
    end, start = ((token, stored.token_to_id(token)) for token in (END, START))
    backend.post_processor = processors.RobertaProcessing(end, start)
    return backend
