"""Make small generative vision-language models with random weights, saved by transformers itself.

Each has its own kind of processor: one size of images, tiles, or patches in the aspect ratio.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE

QUESTION = "What shape is in the image?"
WORDS = ["a red heart", "a blue star", "one large moon", "heart star moon", " A B C", "A B C"]
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 400,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
# A user's turn, then the model's, with a space before what the model says, as in LLaVA 1.5
TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}\n{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def tokenizer(*special: str, **settings: Any) -> Any:
    """Return a byte-level tokenizer with further special tokens, trained on a few words."""
    model = Tokenizer(BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator([*WORDS, QUESTION] * 3, trainer)
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", bos_token="<s>", eos_token="</s>", **settings
    )
    made.add_special_tokens({"additional_special_tokens": list(special)})
    return made


def image_size(edge: int = 32) -> dict[str, Any]:
    """Return the settings of an image processor that makes squares."""
    size = {"height": edge, "width": edge}
    return {"size": size, "crop_size": size, "do_center_crop": False}


def llava(folder: Path, **text: Any) -> Any:
    """Save a LLaVA, and return it; `text` are settings of its language model."""
    tokens = tokenizer("<image>")
    settings = {**TEXT, **text}
    kind = transformers.AutoConfig.for_model(settings.pop("model_type", "llama"), **settings)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=kind,
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
    )
    processor = transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(**image_size()),
        tokens,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )
    return save(folder, transformers.LlavaForConditionalGeneration, config, processor)


def qwen2_5_vl(folder: Path) -> Any:
    """Save a Qwen2.5-VL, whose images have as many tokens as their sizes ask for."""
    return _qwen(folder, "Qwen2_5_VL", {"out_hidden_size": 32, "fullatt_block_indexes": [1]})


def qwen3_vl(folder: Path) -> Any:
    """Save a Qwen3-VL, which also adds features of the image behind its first layers."""
    vision = {
        "out_hidden_size": 32,
        "deepstack_visual_indexes": [0, 1],
        "num_position_embeddings": 64,
    }
    return _qwen(folder, "Qwen3VL", vision)


def _qwen(folder: Path, name: str, vision: dict[str, Any]) -> Any:
    marks = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    tokens = tokenizer(*marks, "<|im_start|>", "<|im_end|>")
    start, end, image, video = tokens.convert_tokens_to_ids(list(marks))
    sizes = {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_heads": 2,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = getattr(transformers, f"{name}Config")(
        text_config={**TEXT, "rope_parameters": rope},
        vision_config={**sizes, **vision},
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    settings = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    size = {"shortest_edge": 16 * 16, "longest_edge": 40 * 40}
    template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
        "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
        "{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    processor = getattr(transformers, f"{name}Processor")(
        transformers.Qwen2VLImageProcessor(**settings, size=size),
        tokens,
        getattr(
            transformers, "Qwen3VLVideoProcessor" if "3VL" in name else "Qwen2VLVideoProcessor"
        )(**settings),
        chat_template=template,
    )
    kind = getattr(transformers, f"{name}ForConditionalGeneration")
    return save(folder, kind, config, processor)


def internvl(folder: Path) -> Any:
    """Save an InternVL, which cuts images into tiles."""
    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokens = tokenizer(*names.values(), extra_special_tokens=names)
    config = transformers.InternVLConfig(
        vision_config={**VISION, "image_size": [32, 32], "patch_size": [8, 8]},
        text_config={"model_type": "qwen2", **TEXT},
        image_token_id=tokens.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
    )
    processor = transformers.InternVLProcessor(
        transformers.GotOcr2ImageProcessor(
            **image_size(), crop_to_patches=True, min_patches=1, max_patches=3
        ),
        tokens,
        transformers.InternVLVideoProcessor(size=image_size()["size"]),
        image_seq_length=4,
        chat_template=TEMPLATE.replace("IMAGE", "<IMG_CONTEXT>"),
    )
    return save(folder, transformers.InternVLForConditionalGeneration, config, processor)


def idefics3(folder: Path) -> Any:
    """Save an Idefics3, with tiles and a mask of their pixels."""
    return _idefics(folder, "Idefics3")


def smolvlm(folder: Path) -> Any:
    """Save a SmolVLM, whose processor writes numbers as words."""
    pytest.importorskip("num2words", reason="num2words is not installed: clipkit-vl[smolvlm]")
    return _idefics(folder, "SmolVLM")


def _idefics(folder: Path, name: str) -> Any:
    tokens = tokenizer("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    config = getattr(transformers, f"{name}Config")(
        vision_config=VISION,
        text_config={"model_type": "llama", **TEXT},
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    videos = ()
    if name == "SmolVLM":
        tokens.image_token = "<image>"
        tokens.fake_image_token = "<fake_token_around_image>"
        tokens.global_image_token = "<global-img>"
        videos = (transformers.SmolVLMVideoProcessor(size={"longest_edge": 64}),)
    size = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
    images = getattr(transformers, f"{name}ImageProcessor")(**size)
    processor = getattr(transformers, f"{name}Processor")(
        images,
        tokens,
        *videos,
        image_seq_len=4,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )
    kind = getattr(transformers, f"{name}ForConditionalGeneration")
    return save(folder, kind, config, processor)


def gemma3(folder: Path) -> Any:
    """Save a Gemma 3, which attends to all of an image at once."""
    names = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    tokens = tokenizer(*names.values(), extra_special_tokens=names)
    config = transformers.Gemma3Config(
        vision_config=VISION,
        text_config={**TEXT, "sliding_window": 16, "sliding_window_pattern": 2},
        mm_tokens_per_image=4,
        image_token_index=tokens.convert_tokens_to_ids("<image_soft_token>"),
        boi_token_index=tokens.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=tokens.convert_tokens_to_ids("<end_of_image>"),
    )
    processor = transformers.Gemma3Processor(
        transformers.Gemma3ImageProcessor(size=image_size()["size"]),
        tokens,
        image_seq_length=4,
        chat_template=TEMPLATE.replace("IMAGE", "<start_of_image>"),
    )
    return save(folder, transformers.Gemma3ForConditionalGeneration, config, processor)


def paligemma(folder: Path) -> Any:
    """Save a PaliGemma, which has no chat template, and a cap on its logits."""
    tokens = tokenizer("<image>")
    tokens.add_bos_token = False
    config = transformers.PaliGemmaConfig(
        vision_config=VISION | {"projection_dim": 32},
        text_config={"model_type": "gemma2", **TEXT, "final_logit_softcapping": 0.05},
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
        projection_dim=32,
    )
    images = transformers.SiglipImageProcessor(size=image_size()["size"])
    images.image_seq_length = 16
    processor = transformers.PaliGemmaProcessor(images, tokens)
    return save(folder, transformers.PaliGemmaForConditionalGeneration, config, processor)


def blip2(folder: Path) -> Any:
    """Save a BLIP-2, whose processor puts image tokens before the question by itself."""
    tokens = tokenizer("<image>")
    width = {"hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 2}
    text = {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    text |= {"word_embed_proj_dim": 32, "vocab_size": 400, "max_position_embeddings": 512}
    text |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = transformers.Blip2Config(
        vision_config={**width, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8},
        qformer_config={**width, "num_hidden_layers": 2, "encoder_hidden_size": 24},
        text_config={"model_type": "opt", **text},
        num_query_tokens=4,
        image_token_index=tokens.convert_tokens_to_ids("<image>"),
    )
    processor = transformers.Blip2Processor(
        transformers.BlipImageProcessor(size=image_size()["size"]), tokens, num_query_tokens=4
    )
    return save(folder, transformers.Blip2ForConditionalGeneration, config, processor)


def florence2(folder: Path) -> Any:
    """Save a Florence-2, whose decoder begins apart from the question."""
    tokens = tokenizer("<image>", extra_special_tokens={"image_token": "<image>"})
    text = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "vocab_size": 400}
    text |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    text |= {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 512}
    text |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    vision = {"depths": (1, 1), "embed_dim": (16, 24), "num_heads": (2, 2), "num_groups": (2, 2)}
    vision |= {"patch_size": (7, 3), "patch_stride": (4, 2), "patch_padding": (3, 1)}
    vision |= {"patch_prenorm": (False, True), "window_size": 4, "projection_dim": 32}
    config = transformers.Florence2Config(
        text_config={"model_type": "bart", **text},
        vision_config=vision,
        image_token_id=tokens.convert_tokens_to_ids("<image>"),
    )
    images = transformers.CLIPImageProcessor(**image_size())
    images.image_seq_length = 17  # its 4 x 4 positions and their mean
    processor = transformers.Florence2Processor(images, tokens)
    model = save(folder, transformers.Florence2ForConditionalGeneration, config, processor)
    model.generation_config.forced_bos_token_id = 1
    model.generation_config.forced_eos_token_id = None
    model.generation_config.save_pretrained(folder)
    return model


FAMILIES: dict[str, Callable[[Path], Any]] = {
    "llava": llava,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "internvl": internvl,
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "gemma3": gemma3,
    "paligemma": paligemma,
    "blip2": blip2,
    "florence2": florence2,
}


def save(folder: Path, kind: Any, config: Any, processor: Any, seed: int = 3) -> Any:
    """Save a model with random weights and its processor, and return the model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config).eval()
        with torch.no_grad():  # else the image would change the logits by less than a millionth
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(0, parameter.shape[-1] ** -0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model
