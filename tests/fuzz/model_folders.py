"""Run embed, textembed and info on changed model folders."""

from __future__ import annotations

import contextlib
import copy
import filecmp
import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from clip_factory import SMALL_TOWER, edit_json, noise_image, write_json, write_model
from forkserver import ForkServer
from fuzz import content, mutate
from fuzz.commands import Runner
from tokenizers.pre_tokenizers import ByteLevel

from clipkit.base.errors import ClipkitError
from clipkit.features import FeatureFile, read

PROMPTS = "a dot\na round thing\nsomething straight\n"
LETTERS = sorted(ByteLevel.alphabet())
TOKENS = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
JSON_FILES = ("config.json", "preprocessor_config.json", "tokenizer_config.json", "vocab.json")
# what configuration files may have wrong: values for a key, by file
SLIPS: dict[str, dict[str, list[Any]]] = {
    "config.json": {
        "vision_config.hidden_act": ["gelu", "relu", "silu", "x", None, 1],
        "vision_config.num_hidden_layers": [0, 1, 3, 10**9, -1, 2.0, "2"],
        "vision_config.image_size": [0, 16, 64, 31, 10**6, [32, 32], None],
        "vision_config.patch_size": [0, 4, 7, 64, -8],
        "vision_config.num_attention_heads": [0, 1, 3, 4, 32, 64],
        "vision_config.hidden_size": [0, 16, 33, 10**9],
        "vision_config.layer_norm_eps": [0, -1, 1e-3, "x", None],
        "text_config.hidden_act": ["gelu", "relu", "x", None],
        "text_config.num_hidden_layers": [0, 1, 3, 10**9],
        "text_config.layer_norm_eps": [0, -1],
        "text_config.eos_token_id": [0, 1, 2, 5, 513, 10**6, -1, None, "x"],
        "text_config.bos_token_id": [0, 10**6, None],
        "text_config.pad_token_id": [0, 1, 10**6, None],
        "text_config.vocab_size": [0, 1, 300, 600, 10**10],
        "text_config.max_position_embeddings": [0, 1, 2, 16, 78, 10**9],
        "projection_dim": [0, 8, 32, 10**9, None, "16"],
        "model_type": ["siglip", "bert", "", None, 1, ["clip"]],
        "dtype": ["float16", "bfloat16", "int8", "x", 1],
        "attn_implementation": ["flash_attention_2", "x"],
        "quantization_config": [{"quant_method": "bitsandbytes"}, {}, "x"],
    },
    "preprocessor_config.json": {
        "crop_size": [16, 64, 0, -1, {"height": 32}, {"height": 16, "width": 32}, None, "x", 10**6],
        "size": [16, 0, {"shortest_edge": 8}, {"height": 40, "width": 40}, {"longest_edge": 9}, {}],
        "resample": [0, 1, 2, 4, 5, 7, -1, "bicubic", None, True],
        "rescale_factor": [0, -1, 1, 1e-300, 1e300, None, "x"],
        "image_mean": [[0.5], [0.5] * 4, 0.5, [], [None] * 3, ["x"] * 3, [1e39] * 3, None],
        "image_std": [[0, 0, 0], [1e-40] * 3, [0.5], [-1] * 3, None, 0],
        "do_resize": [False, None, 0, "false"],
        "do_center_crop": [False, None],
        "do_normalize": [False],
        "do_rescale": [False],
        "do_convert_rgb": [False],
        "do_pad": [True],
        "image_processor_type": ["SiglipImageProcessor", "ViTImageProcessor", "Evil", None, 1],
        "input_data_format": ["channels_last", "x"],
        "data_format": ["channels_last", "x"],
    },
    "tokenizer_config.json": {
        "model_max_length": [0, 1, 2, 5, 10**30, -1, None, "x"],
        "tokenizer_class": ["BertTokenizer", "Evil", None, 1, "PreTrainedTokenizerFast"],
        "eos_token": ["x", None, 1, "</s>", {"content": "y"}],
        "bos_token": ["x", None, 1],
        "pad_token": ["x", None, 1, "!"],
        "add_bos_token": [False],
        "added_tokens_decoder": [{"0": {"content": "x"}}, {"999": {"content": "x"}}, {"x": 1}, []],
        "truncation_side": ["left", "x"],
        "padding_side": ["left", "x"],
        "do_lower_case": [False],
    },
}
NO_JSON = ["", "{", "[]", "null", "1", '"x"', "[" * 200_000, '{"a":' * 200_000, "\x00", "x y\nz"]
# further files that transformers may read, and what they may hold
OTHER_FILES = [
    "tokenizer.json", "processor_config.json", "added_tokens.json", "special_tokens_map.json",
    "spiece.model", "generation_config.json", "model.safetensors.index.json", "chat_template.json",
    "adapter_config.json", "chat_template.jinja",
]  # fmt: skip
OTHER_CONTENTS = [
    *NO_JSON, "{}", '{"a": 1}', '{"<|startoftext|>": 0}', '{"eos_token": "x"}', '{"bos_token": 5}',
    '{"image_processor": {}}', '{"weight_map": {"a": "../x.safetensors"}}',
    '{"image_processor": {"image_processor_type": "CLIPImageProcessor", "size": 8}}',
]  # fmt: skip
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n"
TYPES = {
    "F32": "<f4", "F64": "<f8", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I8": "|i1", "U8": "|u1",
    "BOOL": "|b1", "C64": "<c8",
}  # fmt: skip


class ModelFolders:
    """Judges cases: each changes one small model and embeds with it."""

    def __init__(self, server: ForkServer, folder: Path) -> None:
        self.runner = Runner(server, folder)
        self.folder = folder
        self.original = write_small_clip(folder / "original")
        self.model = folder / "model"
        for number in range(3):
            path = folder / "pictures" / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            noise_image(40, 30 + number, number).save(path)
        (folder / "prompts.txt").write_text(PROMPTS)
        self.expected = {command: self._embed(command, "original")[1] for command in LINES}
        assert all(self.expected.values())

    def __call__(self, case: int) -> str:
        rng = random.Random(case)
        shutil.rmtree(self.model, ignore_errors=True)
        shutil.copytree(self.original, self.model)
        mutations = [rng.choice(MUTATIONS) for _ in range(rng.choice((1, 1, 1, 2)))]
        done = [str(mutation(self.model, rng)) for mutation in mutations]
        ends = []
        for command in rng.sample(list(LINES), 2):
            problem, file = self._embed(command, "model")
            problem = problem or self._find_other_data(command, file)
            if problem:
                return f"{problem}: {command}, {', '.join(done)}"[:400]
            ends.append("used" if file else "refused")
        return max(ends)

    def _embed(self, command: str, model: str) -> tuple[str, FeatureFile | None]:
        """Run a command; return what is wrong with its end or "", and its file."""
        out = self.folder / "out.h5"
        out.unlink(missing_ok=True)
        ended, problem = self.runner.judge(*LINES[command].split(), model)
        shutil.rmtree(self.folder / "out.h5.partial", ignore_errors=True)
        if problem or ended.exit_code:
            return problem, None
        if not out.exists():
            return "", None
        try:
            return "", read(out)
        except ClipkitError as error:
            return f"UNREADABLE {error.message[:150]}", None

    def _find_other_data(self, command: str, file: FeatureFile | None) -> str:
        """Other numbers need another digest; rows of different inputs are different."""
        expected = self.expected[command]
        if file is None or expected is None:
            return ""
        old, new = (_features(f) for f in (expected, file))
        (old_model, new_model) = (f.model() or {} for f in (expected, file))
        if new.shape == old.shape and np.allclose(new, old, rtol=1e-3, atol=1e-5):
            return ""
        if new_model["digest"] == old_model["digest"]:
            return "OTHER EMBEDDINGS OF THE SAME DIGEST"
        weights = [folder / "model.safetensors" for folder in (self.model, self.original)]
        is_same_model = filecmp.cmp(*weights, shallow=False)
        if file.kind == "texts" and is_same_model and np.allclose(new, new[:1], rtol=1e-6):
            return "EQUAL EMBEDDINGS"
        return ""


LINES = {
    "embed": "embed pictures -o out.h5 --precision fp32 -m",
    "embed bf16": "embed pictures -o out.h5 --precision bf16 -m",
    "textembed": "textembed prompts.txt -o out.h5 -m",
    "untrained": "textembed prompts.txt -o out.h5 --untrained 1 -m",
}


def _features(file: FeatureFile) -> Any:
    return file.features if file.kind == "texts" else file.splits["all"].features


def write_small_clip(folder: Path) -> Path:
    """Write a CLIP with two layers per tower and a vocabulary of letters."""
    from transformers import CLIPConfig, CLIPModel

    special = {"bos_token_id": len(TOKENS) - 2, "eos_token_id": len(TOKENS) - 1}
    text = {**SMALL_TOWER, "hidden_size": 32, "vocab_size": len(TOKENS), **special}
    vision = {**SMALL_TOWER, "hidden_size": 32, "image_size": 32, "patch_size": 8}
    text["pad_token_id"] = special["eos_token_id"]
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    write_model(folder, CLIPModel, config, seed=0)
    write_json(folder / "vocab.json", **{token: i for i, token in enumerate(TOKENS)})
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return folder


# mutations; each returns what it did


def make_a_slip(model: Path, rng: random.Random) -> str:
    file = rng.choice([*SLIPS, "config.json"])
    name = rng.choice(list(SLIPS[file]))
    value = rng.choice(SLIPS[file][name])
    *outer, key = name.split(".")

    def edit(owner: dict[str, Any]) -> None:
        for part in outer:
            owner = owner[part]
        owner[key] = value

    with _suppressed():
        _read(model / file)
        edit_json(model / file, edit)
    return f"{file} {name} = {str(value)[:30]}"


def change_json(model: Path, rng: random.Random) -> str:
    """Replace or drop a value somewhere in a JSON file."""
    file = rng.choice(JSON_FILES)
    done = file
    with _suppressed():
        value = json.loads(_read(model / file))
        owner, key = rng.choice(list(content.places(value)))
        if rng.random() < 0.3:
            del owner[key]
            done = f"{file} without {key!r}"
        else:
            owner[key] = copy.deepcopy(rng.choice(content.JSON))
            done = f"{file} {key!r} = {str(owner[key])[:30]!r}"
        (model / file).write_text(json.dumps(value), encoding="utf-8")
    return done


def replace_json(model: Path, rng: random.Random) -> str:
    """Replace a whole file by other or no JSON."""
    file = rng.choice((*JSON_FILES, "merges.txt"))
    value = rng.choice([*NO_JSON, "{}"])
    _replace(model / file, value.encode())
    return f"{file} is {value[:9]!r}"


def replace_file(model: Path, rng: random.Random) -> str:
    """Put something other than a regular file of a sensible size into a file's place."""
    file = rng.choice((*JSON_FILES, "merges.txt", "model.safetensors"))
    path = model / file
    makers: dict[str, Callable[[], Any]] = {
        "nothing": lambda: None,
        "a folder": path.mkdir,
        "a FIFO": lambda: os.mkfifo(path),
        "/dev/zero": lambda: path.symlink_to("/dev/zero"),
        "/dev/null": lambda: path.symlink_to("/dev/null"),
        "dangling": lambda: path.symlink_to("nothing"),
        "a loop": lambda: path.symlink_to(path.name),
        "large": lambda: _truncate(path, 1 << 28 if path.suffix == ".safetensors" else 6 << 30),
        "an LFS pointer": lambda: path.write_bytes(LFS_POINTER),
    }
    kind = rng.choice(list(makers))
    _remove(path)
    makers[kind]()
    return f"{file} is {kind}"


def damage_file(model: Path, rng: random.Random) -> str:
    file = rng.choice((*JSON_FILES, "merges.txt", "model.safetensors"))
    with _suppressed():
        data = _read(model / file)
        _replace(model / file, mutate.damaged([data], rng.randrange(10**9)))
    return f"{file} damaged"


def add_file(model: Path, rng: random.Random) -> str:
    """Add a file that transformers may read too."""
    name = rng.choice(OTHER_FILES)
    if rng.random() < 0.1:
        _remove(model / name)
        os.mkfifo(model / name)
        return f"{name} is a FIFO"
    value = rng.choice(OTHER_CONTENTS)
    _replace(model / name, value.encode())
    return f"{name} is {value[:60]!r}"


def change_header(model: Path, rng: random.Random) -> str:
    """Change the header of the weights: a tensor's type, shape, place or name."""
    with _suppressed():
        header, data = _read_weights(model)
        name = rng.choice(list(header))
        entry = header[name]
        shape = entry.get("shape", [])
        values: dict[str, list[Any]] = {
            "dtype": [*TYPES, "BF16", "F8_E4M3", "X", None],
            "shape": [[], [0], [10**18], [-1], [1.5], shape[::-1], [*shape, 1]],
            "data_offsets": [[0, 0], [0, 2**63], [8, 4], [0], None, [0, len(data)]],
            "format": [1, "tf", None, []],
        }
        key = rng.choice((*values, "drop", "rename", "add"))
        if key in values:
            entry[key] = rng.choice(values[key])
        elif key == "add":
            header[f"{name}_extra"] = copy.deepcopy(entry)
        else:
            del header[name]
        if key == "rename":
            header[rng.choice(("x", "logit_bias", f"{name}.x", "vision_model.x"))] = entry
        _write_weights(model, header, data)
        return f"weights: {key} of {name}, {str(entry)[:80]}"
    return "no weights"


def change_weights(model: Path, rng: random.Random) -> str:
    """Change a tensor's values, and sometimes its type."""
    with _suppressed():
        header, data = _read_weights(model)
        names = [name for name in header if name != "__metadata__"]
        name = rng.choice([*names, "logit_scale", "logit_scale"])
        start, end = header[name]["data_offsets"]
        array = np.frombuffer(data[start:end], "<f4").copy()
        value = rng.choice(content.NUMBERS)
        dtype = rng.choice(["F32", "F32", "F32", *TYPES])
        with np.errstate(all="ignore"):
            array[rng.choice((slice(None), slice(1), slice(-1, None)))] = value
            new = array.astype(TYPES[dtype]).tobytes()
        header[name]["dtype"] = dtype
        header[name]["data_offsets"] = [start, start + len(new)]
        for other in names:
            offsets = header[other]["data_offsets"]
            if offsets[0] >= end:
                shift = len(new) - (end - start)
                header[other]["data_offsets"] = [offset + shift for offset in offsets]
        _write_weights(model, header, data[:start] + new + data[end:])
        return f"{name} as {dtype} with {value}"
    return "no weights"


MUTATIONS = [
    make_a_slip, make_a_slip, make_a_slip, make_a_slip, change_json, change_json, replace_json,
    replace_file, damage_file, add_file, change_header, change_weights, change_weights,
]  # fmt: skip


def _read_weights(model: Path) -> tuple[dict[str, Any], bytes]:
    data = _read(model / "model.safetensors")
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _write_weights(model: Path, header: dict[str, Any], data: bytes) -> None:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    _replace(model / "model.safetensors", struct.pack("<Q", len(text)) + text + data)


def _suppressed() -> Any:
    """Return a context for a mutation of a file that an earlier one has spoilt."""
    return contextlib.suppress(
        ValueError, TypeError, KeyError, AttributeError, IndexError, OSError, struct.error
    )


def _read(path: Path) -> bytes:
    if not path.is_file() or path.stat().st_size > 1 << 25:
        raise OSError("an earlier mutation left nothing to change")
    return path.read_bytes()


def _replace(path: Path, data: bytes) -> None:
    _remove(path)
    path.write_bytes(data)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _truncate(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)
