"""Say what a folder is that holds no model as clipkit reads one, and what to do about it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from clipkit.base import suggestions

PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt"}
# The lines that turn a pickle into safetensors; docs/commands/embed-models.md shows them.
CONVERSION = (
    "import safetensors.torch, torch",
    'weights = torch.load({file}, map_location="cpu", weights_only=True)',
    "safetensors.torch.save_file({k: v.clone() for k, v in weights.items()}, {target})",
)
MERGE = (
    "from peft import PeftModel",
    "import transformers",
    "Kind = getattr(transformers, {kind})",
    "model = PeftModel.from_pretrained(Kind.from_pretrained({base}), {folder})",
    'model.merge_and_unload().save_pretrained("merged")',
)
PROCESSOR = (
    "from transformers import AutoProcessor",
    "AutoProcessor.from_pretrained({base}).save_pretrained({folder})",
)
OPEN_CLIP = (
    "import open_clip; from pathlib import Path; from safetensors.torch import save_file",
    "from open_clip.push_to_hf_hub import save_config_for_hf as save",
    'model = open_clip.create_model("ARCHITECTURE", pretrained={file})',
    'settings = open_clip.get_model_config("ARCHITECTURE")',
    'save(model, Path("open_clip_config.json"), settings)',
    'save_file(model.state_dict(), "open_clip_model.safetensors")',
)
ORIGINAL = "give the model that it was made from, in safetensors form"
# What programs save in forms that clipkit does not read
FORMS = {
    "*.gguf": "GGUF, which llama.cpp reads",
    "*.onnx": "ONNX",
    "onnx/*.onnx": "ONNX",
    "weights.npz": "MLX",
}
# The folders inside another one that are models, and what has them so
INNER_MODELS = {
    "0_*/config.json": "a model of sentence-transformers",
    "image_encoder/config.json": "a pipeline of diffusers",
    "text_encoder*/config.json": "a pipeline of diffusers with a text tower alone",
    "checkpoint-*/config.json": "a training run of transformers",
}


class Unusable(NamedTuple):
    """What a folder is that cannot be used as a model, and the next step."""

    got: str
    hint: str


def find_unusable_weights(folder: Path, config: Mapping[str, Any]) -> Unusable | None:
    """Say if the weights of a folder are not a whole model, or not in floating point.

    `config` is the content of its config.json, {} without one.
    """
    if (folder / "adapter_config.json").exists():
        settings = _read(folder / "adapter_config.json")
        base = settings.get("base_model_name_or_path") or "BASE"
        is_plain = settings.get("task_type") in (None, "FEATURE_EXTRACTION")
        kind = "AutoModel" if is_plain else "AutoModelForImageTextToText"
        command = suggestions.python(MERGE, kind=kind, base=base, folder=folder)
        return Unusable(
            f"an adapter (LoRA) of {base}", f"merge it, then copy JSON files: {command}"
        )
    for setting, method in (("quantization_config", "quant_method"), ("quantization", "")):
        quantized = config.get(setting)
        if isinstance(quantized, Mapping):
            by = quantized.get(method) or "MLX"
            return Unusable(f"weights that are quantised ({by})", ORIGINAL)
    return None


def recognize(folder: Path, name: str) -> Unusable | None:
    """Say what a folder without a configuration or weights is, if its content shows that.

    `name` is the model's: the folder, or a repository of which only settings were fetched.
    """
    return next(_reasons(folder, name), None)


def _reasons(folder: Path, name: str) -> Iterator[Unusable]:
    for pattern, got in INNER_MODELS.items():
        for path in sorted(folder.glob(pattern)):
            inner = path.parent.relative_to(folder)
            hint = f"give its folder {folder / inner}"
            if folder.parent.name == "snapshots":
                download = suggestions.command("hf", "download", name, "--local-dir", "FOLDER")
                hint = f"{download}, then give FOLDER/{inner}"
            yield Unusable(got, hint)
    for path in sorted(folder.glob("checkpoints/*.pt")):
        hint = f"save it as safetensors in a new folder: {suggestions.python(OPEN_CLIP, file=path)}"
        yield Unusable("a training run of OpenCLIP", hint)
    for path in [folder, *sorted(folder.glob("models--*"))]:
        if path.name.startswith("models--") and (path / "snapshots").is_dir():
            repository = path.name.removeprefix("models--").replace("--", "/")
            yield Unusable("the Hub's cache", f"give the name of a model: {repository}")
    if (folder / "model_index.json").exists():
        yield Unusable("a pipeline of diffusers without an image encoder", "give another model")
    for pattern, form in FORMS.items():
        for path in sorted(folder.glob(pattern)):
            yield Unusable(f"{path.relative_to(folder)}, a model in the form of {form}", ORIGINAL)


def convert_hint(path: Path, stem: str) -> str:
    """Return what to do with a pickle, whose tensors become STEM.safetensors."""
    target = path.with_name(f"{stem}.safetensors")
    return f"convert it: {suggestions.python(CONVERSION, file=path, target=target)}"


def processor_hint(folder: Path) -> str:
    """Return what to do about a folder without an image processor: a checkpoint of a training."""
    base = _read(folder / "config.json").get("_name_or_path") or "BASE"
    command = suggestions.python(PROCESSOR, base=base, folder=folder)
    return f"save that of the model from which the training began: {command}"


def _read(path: Path) -> dict[str, Any]:
    """Return the object in a side file, which was checked; {} for other content."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        content = None
    return content if isinstance(content, dict) else {}
