"""Train the bundled generative model from scratch: ``python -m training.llava --out FOLDER``.

A small LLaVA: the image tower of `tiny`, frozen, and a language model that answers three questions
about images of `shapes` with one word. It is never asked for the pattern, the material or the size,
so that what it holds and what it says differ. The same seed on the same machine gives the same
weights. README.md in the model's folder describes the recipe and the results.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import clipkit.tiny
from clipkit.base import console
from clipkit.shapes.scene import BACKGROUNDS, COLOURS, MATERIALS, OUTLINES, PATTERNS
from training.samples import ATTRIBUTES, PATCH, SIZE, Batch, batches
from training.train import MEAN, STD, set_learning_rates

WIDTH, LAYERS = 64, 4
ASK = "Answer with one word."
QUESTIONS = {  # what it is trained to answer
    "outline": f"What shape is in the image? {ASK}",
    "colour": f"What colour is the shape? {ASK}",
    "background": f"What is behind the shape? {ASK}",
}
NOT_ASKED = "What pattern does the shape have? What material is the shape? What size is the shape?"
ANSWERS = {"outline": OUTLINES, "colour": tuple(COLOURS), "background": tuple(BACKGROUNDS)}
OTHER_WORDS = (*PATTERNS, *MATERIALS, "small", "medium", "large", "yes", "no")
IMAGE, PAD, UNKNOWN, START, END = "<image>", "<pad>", "<unk>", "<s>", "</s>"
TEMPLATE = (
    "{% for message in messages %}"
    "{{ 'USER: ' if message['role'] == 'user' else 'ASSISTANT: ' }}"
    "{% for part in message['content'] %}"
    "{{ '<image>\n' if part['type'] == 'image' else part['text'] + ' ' }}"
    "{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


@dataclass(frozen=True)
class Recipe:
    """Everything that determines the weights, apart from the software and the machine."""

    seed: int = 0
    samples: int = 76_800
    batch: int = 128
    lr: float = 3e-3
    weight_decay: float = 0.05
    warmup: int = 50
    curriculum: float = 0.2


def build_processor() -> Any:
    """Return LLaVA's processor with a tokenizer whose tokens are whole words."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

    pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), "removed", invert=True)
    words = ["user", "assistant"]
    for text in (*QUESTIONS.values(), NOT_ASKED):
        words += [word for word, _ in pre_tokenizer.pre_tokenize_str(f"{text.lower()} :")]
    for answers in (*ANSWERS.values(), OTHER_WORDS):
        words += answers
    specials = [PAD, UNKNOWN, START, END, IMAGE]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys([*specials, *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, vocabulary[START])]
    )
    names = {"pad_token": PAD, "unk_token": UNKNOWN, "bos_token": START, "eos_token": END}
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        padding_side="left",
        extra_special_tokens={"image_token": IMAGE},
        model_max_length=128,
        **names,
    )
    size = {"height": SIZE, "width": SIZE}
    return LlavaProcessor(
        CLIPImageProcessor(
            size={"shortest_edge": SIZE}, crop_size=size, image_mean=[MEAN] * 3, image_std=[STD] * 3
        ),
        wrapped,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
        num_additional_image_tokens=1,  # the CLS token
    )


def build_model(tokenizer: Any) -> Any:
    """Return a LLaVA with the image tower of `tiny`, and the rest with random weights."""
    from transformers import CLIPModel, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    tiny = CLIPModel.from_pretrained(Path(clipkit.tiny.__file__).parent)
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=tiny.config.vision_config,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        image_seq_length=(SIZE // PATCH) ** 2 + 1,
    )
    model = LlavaForConditionalGeneration(config).float()
    tower = model.model.vision_tower
    tower.load_state_dict(
        {name: tensor.float() for name, tensor in tiny.vision_model.state_dict().items()}
    )
    tower.requires_grad_(False)
    return model


def prompt(processor: Any, question: str) -> str:
    """Return the text in which the model is asked."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    chat = [{"role": "user", "content": content}]
    return str(processor.apply_chat_template(chat, add_generation_prompt=True))


def compute_loss(model: Any, prompts: dict[str, Tensor], answers: Any, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of the next token. A third of the images has each question."""
    pixels = (torch.from_numpy(batch.pixels).permute(0, 3, 1, 2) / 255 - MEAN) / STD
    with torch.no_grad():
        states = model.model.vision_tower(pixel_values=pixels).last_hidden_state
    images = model.model.multi_modal_projector(states)  # (B, tokens, WIDTH)
    is_grey = torch.from_numpy(batch.codes[:, list(ATTRIBUTES).index("grey")] > 0)
    embed = model.get_input_embeddings()
    losses = []
    for number, (name, ids) in enumerate(prompts.items()):
        rows = slice(number, None, len(prompts))
        is_image = ids == model.config.image_token_index
        inputs = embed(ids).expand(len(images[rows]), -1, -1).clone()
        inputs[:, is_image] = images[rows]
        state = model.model.language_model(inputs_embeds=inputs).last_hidden_state[:, -1]
        codes = batch.codes[rows, list(ATTRIBUTES).index(name)]
        target = answers[name][torch.from_numpy(codes)]
        if name != "outline":
            target = target.masked_fill(is_grey[rows], -100)  # a greyscale image does not show it
        losses.append(functional.cross_entropy(model.lm_head(state), target))
    return torch.stack(losses).mean()


def train(out: Path, recipe: Recipe) -> str:
    """Train the model, write its folder, and return the SHA-256 of the weights."""
    torch.set_num_threads(1)  # the order of sums must not depend on the number of cores
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(recipe.seed)
    processor = build_processor()
    tokenizer = processor.tokenizer
    model = build_model(tokenizer)
    expand = {"images": np.zeros((SIZE, SIZE, 3), np.uint8), "return_tensors": "pt"}
    prompts = {
        name: processor(text=prompt(processor, question), **expand)["input_ids"][0]
        for name, question in QUESTIONS.items()
    }
    answers = {
        name: torch.tensor(tokenizer.convert_tokens_to_ids(list(words)))
        for name, words in ANSWERS.items()
    }
    trained = [p for p in model.parameters() if p.requires_grad]
    group = {"params": trained, "peak_lr": recipe.lr}
    optimizer = torch.optim.AdamW([group], lr=recipe.lr, weight_decay=recipe.weight_decay)
    steps, difficulty = recipe.samples // recipe.batch, {"curriculum": recipe.curriculum}
    samples = batches(recipe.seed, 0, steps=steps, batch=recipe.batch, **difficulty)
    curve: list[float] = []
    with console.progress("training", "steps") as report_progress:
        for step, batch in enumerate(samples):
            set_learning_rates([optimizer], step, steps=steps, warmup=recipe.warmup)
            loss = compute_loss(model, prompts, answers, batch)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            curve.append(loss.item())
            report_progress(step + 1, steps)
    out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(out)
    processor.save_pretrained(out)
    # transformers 5 writes a class of the tokenizer that transformers 4 does not know
    path = out / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(settings, indent=2) + "\n")
    weights = out / "model.safetensors"
    weights.chmod(0o644)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    means = np.round(np.mean(np.reshape(curve[: len(curve) // 50 * 50], (-1, 50)), axis=1), 4)
    record = {"recipe": asdict(recipe), "weights_sha256": digest, "curve": means.tolist()}
    (out / "training.json").write_text(json.dumps(record) + "\n")
    return digest


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m training.llava", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    options = parser.parse_args()
    sys.stdout.write(f"{train(options.out, Recipe())}  {options.out / 'model.safetensors'}\n")
