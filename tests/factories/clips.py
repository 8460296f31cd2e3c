"""Models with random weights: small ones, a full-size one, and one in the form of old checkpoints.

PyTorch and transformers are imported inside functions, since every test imports this module.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import versions
from numpy.typing import NDArray
from PIL import Image

N_MERGES = 49152 - 256 - 2  # rules of the published vocabulary
START, END = "<|startoftext|>", "<|endoftext|>"
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
NO_SENTENCEPIECE = "sentencepiece and protobuf are not installed (clipkit-vl[siglip])"
SMALL_TOWER = {
    **{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
    "intermediate_size": 64,
}
SMALL_VISION = {**SMALL_TOWER, "image_size": 32, "patch_size": 8}
STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")


def write_json(path: Path, /, **content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def edit_json(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Change the content of a JSON file in place."""
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    write_json(path, **content)


def edit_tensors(
    folder: Path, edit: Callable[[dict[str, Any]], Any], file: str = "model.safetensors"
) -> None:
    """Change a model's tensors in place."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / file)
    edit(tensors)
    save_file(tensors, folder / file, metadata={"format": "pt"})


def in_memory(model: Any) -> Any:
    """Copy a reference's weights to memory that PyTorch allocates, as clipkit does with its own.

    In its file, a tensor begins at any address, and the last bits of a product depend on that.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model.eval()


def assert_close(actual: Any, expected: Any) -> None:
    """Compare float32 numbers that other kernels, or the same for another batch, may compute.

    Each layer may change the last bits by a few units of the largest number.
    """
    expected = np.asarray(expected)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def write_tokenizer(folder: Path, context_length: int) -> None:
    """Write CLIP's whole vocabulary as vocab.json and merges.txt."""
    from tokenizers.pre_tokenizers import ByteLevel

    package = importlib.util.find_spec("open_clip")
    assert package is not None
    assert package.origin is not None
    archive = Path(package.origin).with_name("bpe_simple_vocab_16e6.txt.gz")
    merges = gzip.decompress(archive.read_bytes()).decode().split("\n")[1 : N_MERGES + 1]
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += [merge.replace(" ", "") for merge in merges]
    tokens += [START, END]
    write_json(folder / "vocab.json", **{token: i for i, token in enumerate(tokens)})
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": context_length}
    settings |= dict.fromkeys(("eos_token", "unk_token", "pad_token"), END)
    write_json(folder / "tokenizer_config.json", **settings, bos_token=START)


def write_processor(folder: Path, size: int) -> None:
    settings: dict[str, Any] = dict.fromkeys(STEPS, True)
    settings |= {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    settings |= {"image_mean": MEAN, "image_std": STD, "rescale_factor": 1 / 255, "resample": 3}
    settings |= {"image_processor_type": "CLIPImageProcessor"}
    write_json(folder / "preprocessor_config.json", **settings)


def write_weights(folder: Path, kind: Any, config: Any, seed: int) -> None:
    """Write a model with random weights."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = kind(config)
    config.architectures = [kind.__name__]
    config.save_pretrained(folder)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})


def write_model(folder: Path, kind: Any, config: Any, seed: int) -> Path:
    """Write a model with random weights, its tokenizer and its processor."""
    write_weights(folder, kind, config, seed)
    write_tokenizer(folder, config.text_config.max_position_embeddings)
    write_processor(folder, config.vision_config.image_size)
    return folder


def tiny_clip(
    folder: Path, seed: int = 0, *, width: int = 32, dim: int = 16, image_size: int = 32
) -> Path:
    """Write a CLIP with two layers per tower and the whole vocabulary."""
    from transformers import CLIPConfig, CLIPModel

    text = {**SMALL_TOWER, "hidden_size": width, "intermediate_size": 2 * width}
    vision = {**text, "image_size": image_size, "patch_size": image_size // 4}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=dim)
    return write_model(folder, CLIPModel, config, seed)


def tiny_siglip(folder: Path, seed: int = 0) -> Path:
    """Write a SigLIP with two layers per tower and CLIP's tokenizer."""
    from transformers import SiglipConfig, SiglipModel

    special = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    text = {**SMALL_TOWER, "vocab_size": 49408, **special}
    config = SiglipConfig(text_config=text, vision_config=SMALL_VISION)
    return write_model(folder, SiglipModel, config, seed)


def siglip_without_tokenizer(folder: Path, seed: int) -> Path:
    tiny_siglip(folder, seed)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (folder / name).unlink()
    return folder


def transformers_5_form(folder: Path, seed: int = 0) -> Path:
    """Write a small CLIP as transformers 5 saves it, without a preprocessor_config.json."""
    from transformers import CLIPModel, CLIPProcessor

    older = tiny_clip(folder.with_name(f"{folder.name}-older"), seed)
    CLIPModel.from_pretrained(older).save_pretrained(folder)
    CLIPProcessor.from_pretrained(older).save_pretrained(folder)
    assert not (folder / "preprocessor_config.json").exists()
    return folder


def vit_b32(folder: Path, seed: int = 0) -> Path:
    """Write a full-size CLIP ViT-B/32 with the whole vocabulary."""
    from transformers import CLIPConfig, CLIPModel

    return write_model(folder, CLIPModel, CLIPConfig(), seed)


def published_siglip(folder: Path, seed: int = 0) -> Path:
    """Write a small SigLIP in the form of the published ones, with a SentencePiece tokenizer."""
    from transformers import SiglipTokenizer

    trainer = pytest.importorskip("sentencepiece", reason=NO_SENTENCEPIECE).SentencePieceTrainer
    pytest.importorskip("google.protobuf", reason=NO_SENTENCEPIECE)
    siglip_without_tokenizer(folder, seed)
    prompts = Path(__file__).parents[2] / "prompts" / "generic415.txt"
    files = {"input": str(prompts), "model_prefix": str(folder / "spiece")}
    special = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    trainer.train(**files, vocab_size=400, **special, minloglevel=2)
    SiglipTokenizer(str(folder / "spiece.model")).save_pretrained(folder)
    return folder


def tiny_siglip2(folder: Path, seed: int = 0) -> Path:
    """Write a small SigLIP 2 of fixed resolution, with a small tokenizer of Gemma's kind."""
    from transformers import GemmaTokenizer

    versions.need(versions.GEMMA)
    siglip_without_tokenizer(folder, seed)
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "\u2581"]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += list(string.ascii_letters + string.digits + string.punctuation)
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    rules = {"add_bos_token": False, "add_eos_token": True, "padding_side": "right"}
    tokenizer = GemmaTokenizer(vocab=vocabulary, **rules)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_naflex(folder: Path, seed: int = 0) -> Path:
    """Write a small SigLIP 2 NaFlex with a small tokenizer of Gemma's kind."""
    from transformers import Siglip2Config, Siglip2Model

    other = tiny_siglip2(folder.with_name(f"{folder.name}-tokenizer"), seed)
    special = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    text = {**SMALL_TOWER, "vocab_size": 400, **special}
    vision = {**SMALL_TOWER, "num_patches": 16, "patch_size": 8}
    write_weights(folder, Siglip2Model, Siglip2Config(text_config=text, vision_config=vision), seed)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (other / name).rename(folder / name)
    write_naflex_processor(folder)
    return folder


def write_naflex_processor(folder: Path) -> None:
    steps = ("do_convert_rgb", "do_resize", "do_rescale", "do_normalize")
    settings: dict[str, Any] = dict.fromkeys(steps, True)
    settings |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255}
    settings |= {"patch_size": 8, "max_num_patches": 24, "resample": 2}
    settings |= {"image_processor_type": "Siglip2ImageProcessor"}
    write_json(folder / "preprocessor_config.json", **settings)


def tiny_metaclip2(folder: Path, seed: int = 0) -> Path:
    """Write a small MetaCLIP 2 with a small tokenizer of XLM-R's kind."""
    from transformers import MetaClip2Config, MetaClip2Model, XLMRobertaTokenizer

    pieces = ["<s>", "<pad>", "</s>", "<unk>", "\u2581"]
    pieces += list(string.ascii_letters + string.digits + string.punctuation + "éü東京")
    tokenizer = XLMRobertaTokenizer(vocab=[(piece, -1.0) for piece in pieces])
    special = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    text = {**SMALL_TOWER, "vocab_size": len(tokenizer), **special}
    config = MetaClip2Config(text_config=text, vision_config=SMALL_VISION, projection_dim=16)
    write_weights(folder, MetaClip2Model, config, seed)
    tokenizer.save_pretrained(folder)
    write_processor(folder, 32)
    return folder


def tiny_aimv2_lit(folder: Path, seed: int = 0) -> Path:
    """Write a small AIMv2-LiT, whose text tower is of CLIP's kind."""
    from transformers import Aimv2Config, Aimv2Model

    config = Aimv2Config(text_config=SMALL_TOWER, vision_config=SMALL_VISION, projection_dim=16)
    return write_model(folder, Aimv2Model, config, seed)


def tiny_chinese_clip(folder: Path, seed: int = 0) -> Path:
    """Write a small Chinese CLIP, whose text tower is a BERT."""
    from transformers import BertTokenizer, ChineseCLIPConfig, ChineseCLIPModel

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase, *"東京é7,!"]
    pieces += [f"##{letter}" for letter in string.ascii_lowercase]
    text = {**SMALL_TOWER, "vocab_size": len(pieces), "max_position_embeddings": 64}
    config = ChineseCLIPConfig(text_config=text, vision_config=SMALL_VISION, projection_dim=16)
    write_weights(folder, ChineseCLIPModel, config, seed)
    BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}).save_pretrained(folder)
    write_processor(folder, 32)
    return folder


def tiny_altclip(folder: Path, seed: int = 0) -> Path:
    """Write a small AltCLIP, whose text tower is an XLM-R, with the tokenizer of MetaCLIP 2."""
    from transformers import AltCLIPConfig, AltCLIPModel

    tiny_metaclip2(folder, seed)
    text = {**SMALL_TOWER, "vocab_size": 128, "project_dim": 16, "pad_token_id": 1}
    config = AltCLIPConfig(text_config=text, vision_config=SMALL_VISION, projection_dim=16)
    write_weights(folder, AltCLIPModel, config, seed)
    return folder


def openai_form(folder: Path, seed: int = 0) -> Path:
    """Write a small CLIP in the form of the first published checkpoints.

    Their configuration files are old, and buffers lie among the weights.
    """
    import torch

    tiny_clip(folder, seed, image_size=224)

    def add_buffers(tensors: dict[str, Any]) -> None:
        for tower, count in (("text_model", 77), ("vision_model", 17)):
            tensors[f"{tower}.embeddings.position_ids"] = torch.arange(count)[None]

    def make_old(config: dict[str, Any]) -> None:
        special = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
        config["text_config"] |= {**special, "projection_dim": 512}
        config["vision_config"] |= {"projection_dim": 512}
        config |= {"torch_dtype": "float32", "transformers_version": None}
        config.pop("dtype", None)

    edit_tensors(folder, add_buffers)
    edit_json(folder / "config.json", make_old)
    settings: dict[str, Any] = dict.fromkeys(("do_center_crop", "do_normalize", "do_resize"), True)
    settings |= {"crop_size": 224, "size": 224, "resample": 3}
    settings |= {"image_mean": MEAN, "image_std": STD}
    settings |= {"feature_extractor_type": "CLIPFeatureExtractor"}
    write_json(folder / "preprocessor_config.json", **settings)
    return folder


def noise_image(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def noise_images() -> list[Image.Image]:
    """Return nine images of five sizes, out of order."""
    sizes = [(32, 32), (40, 24), (32, 32), (24, 40), (32, 32), (101, 77), (40, 24), (32, 32)]
    return [noise_image(*size, seed) for seed, size in enumerate([*sizes, (500, 375)])]


def embed_noise(folder: Path, **options: Any) -> NDArray[Any]:
    """Return the embeddings of the noise images by a model."""
    from clipkit import models

    options = {"device": "cpu", "precision": "fp32", **options}
    return models.load(str(folder), tower="image", **options).encode_images(noise_images())


def check_untrained_control(folder: Path) -> None:
    """Check that the control of a model depends on its seed, and on nothing else."""
    first, again, other = (embed_noise(folder, untrained=seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def cosines(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Return the cosine of each row of a with that row of b."""
    a = a.astype(np.float64)
    b = b.astype(np.float64)
    return (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="session")
def tiny_clip_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP with random weights and CLIP's whole vocabulary."""
    return tiny_clip(tmp_path_factory.mktemp("models") / "tiny-clip")


@pytest.fixture(scope="session")
def vit_b32_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full-size ViT-B/32 with random weights (600 MB)."""
    return vit_b32(tmp_path_factory.mktemp("models") / "vit-b-32")
