"""Generative vision-language models of transformers: what they hold, and what they would say.

A next-token logit is the product of the last hidden state and a row of the output embedding, so
that the two are features of an image and of a word. No architecture is named here: the library
lists its models, and what is special about one is measured on one image.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
import transformers

from clipkit.base import console
from clipkit.base.errors import ClipkitError, UsageError
from clipkit.features.history import DOT_PRODUCT, drop_none
from clipkit.models.acceleration import DTYPES
from clipkit.models.architecture import (
    check_memory,
    check_number_of_layers,
    check_range,
    check_stored_size,
    load_tensors,
    not_finite,
    refuse_misfits,
    tensors_digest,
)
from clipkit.models.hub import ModelFiles, combine_digests
from clipkit.models.libraries import (
    check_installed,
    library_version,
    named,
    newer_transformers,
    quiet_loading,
    single_line_errors,
)
from clipkit.models.options import RunOptions, check_taken
from clipkit.models.questions import Answers, AskedTexts, Question
from clipkit.models.towers import (
    LayerTower,
    Stack,
    TowerName,
    mean_of_patches,
    resolve,
    widened,
)
from clipkit.prompts.texts import MAX_CHARACTERS

LAST = "last"  # the position of the answer; the other one is "image"
WORDS_TAKE = ("untrained", "precision", "ask", "as_embedding", "at")
MASKED = -1e30  # logits below are of tokens that the model never says
TOLERANCES = {
    "fp64": 1e-4,
    "fp32": 1e-4,
    "fp16": 0.02,
    "bf16": 0.05,
}  # of logits, relative to the largest
Inputs = dict[str, Any]


def load(
    files: ModelFiles, tower: TowerName, options: RunOptions, device: torch.device, precision: str
) -> dict[str, Any]:
    """Return the fields of an `Encoder` of images with a question, or of words as its answers.

    With `as_embedding`, texts in a question are encoded as images are.
    """
    ask = _check_question(files, tower, options)
    is_words = tower == "text" and not options.as_embedding
    with newer_transformers(files.read_json("config.json").get("transformers_version")):
        checkpoint = Checkpoint(files)
        start = checkpoint.decoder_start()
        question = Question(files, ask, device, DTYPES[precision], start)
        dtype = DTYPES[precision]
        if is_words:  # only the rows of words are needed, in their stored type
            device = torch.device("cpu")
            dtype = checkpoint.config.dtype or torch.float32
        model, parts = checkpoint.load(options.untrained, device, dtype)
    if not hasattr(model, "hf_device_map"):
        check_range(files, model, precision)
    known = {
        "name": files.name,
        "library": library_version("transformers"),
        "digest": combine_digests(parts),
        "weights": parts["weights"],
        "tower": tower,
        "precision": precision,
        "device": device.type,
        "question": ask,
        "choices": list(options.choices) or None,
        "prompt": question.prompt,
        "decoder_start": start or None,
        "untrained": options.untrained,
        "as_embedding": options.as_embedding or None,
    }
    details = drop_none(known)
    encoder = {"details": details, "parts": parts, "_device": device}
    with named(files.name), single_line_errors("ask the model"), torch.inference_mode():
        if is_words:
            fields = _words(files, question, model, DTYPES[precision])
        elif tower == "text":
            fields = _texts(files, question, model)
        else:
            fields = _images(question, model, options, TOLERANCES[precision])
    return {**encoder, **fields, "details": {**details, **fields["details"]}}


def _check_question(files: ModelFiles, tower: TowerName, options: RunOptions) -> str:
    """Return the question; refuse a run without one, and layers of words."""
    if options.ask is None:
        raise UsageError(
            f"{files.name}: expected a question with a generative model, got none",
            "give one: --ask 'What is in the image? Answer with one word.', or embed by "
            "--vision-tower alone",
        )
    if tower == "text":
        with named(files.name):
            check_taken(options, WORDS_TAKE, "words of a generative model")
    return options.ask


def _words(files: ModelFiles, question: Question, model: Any, dtype: torch.dtype) -> dict[str, Any]:
    """Return the tower and the tokenizer of words: rows of the output embedding."""
    rows = model.get_output_embeddings().weight.to(dtype)
    return {
        "details": {"dim": rows.shape[1], "similarity": DOT_PRODUCT},
        "_tower": lambda input_ids: rows[input_ids[:, 0]],
        "_tokenizer": Answers(files.name, question),
    }


def _texts(files: ModelFiles, question: Question, model: Any) -> dict[str, Any]:
    """Return the tower and the tokenizer of texts: the last hidden state of their prompts."""
    most = getattr(model.config.get_text_config(), "max_position_embeddings", MAX_CHARACTERS)
    stack = Stack([], None, head=model.get_output_embeddings())
    return {
        "details": {"dim": None, "prompt": question.text_prompt},
        "_tower": AskedModel(model, stack, (0,), LAST, norm=False),
        "_tokenizer": AskedTexts(files.name, question, most),
    }


def _images(
    question: Question, model: Any, options: RunOptions, tolerance: float
) -> dict[str, Any]:
    """Return the tower and the preprocessor of images: hidden states of their prompts."""
    stack = Stack([], None, head=model.get_output_embeddings())
    asked = AskedModel(model, stack, (0,), options.at or LAST, norm=False)
    inputs: Any = question.normalize(question.resize_and_crop([question.example()]))
    details: dict[str, Any] = {"at": asked.pool, "preprocessing": question.details()}
    if options.layers is not None:
        asked = find_layers(asked, inputs)
        count = len(asked.stack.layers)
        asked = replace(asked, layers=resolve(options.layers, count))
        details |= {"layer": list(asked.layers), "layers": count}
    elif asked.pool == LAST and not options.as_embedding:
        details |= {"similarity": DOT_PRODUCT}
        details |= output_scale(asked, inputs, tolerance)
    return {"details": details, "_tower": asked, "_preprocessor": question}


class Checkpoint:
    """The configuration and the weights of a model in a folder."""

    def __init__(self, files: ModelFiles) -> None:
        self.files = files
        with quiet_loading(f"config.json of {files.name}"):
            content = files.read_json("config.json")
            self.config: Any = transformers.CONFIG_MAPPING[content["model_type"]].from_dict(content)
            for config in (self.config.get_text_config(), getattr(self.config, "vision_config", 0)):
                if isinstance(layers := getattr(config, "num_hidden_layers", None), int):
                    check_number_of_layers("num_hidden_layers", layers)
        self.config.get_text_config().use_cache = False  # nothing is generated

    def decoder_start(self) -> list[int]:
        """Return the tokens with which a decoder begins each answer, if the model has an encoder.

        The second one, if there is one, is the token that the library forces upon it.
        """
        if not getattr(self.config, "is_encoder_decoder", False):
            return []
        settings = dict(self.files.read_json("config.json").get("text_config", {}))
        if (self.files.folder / "generation_config.json").exists():
            settings |= self.files.read_json("generation_config.json")
        tokens = (settings.get("decoder_start_token_id"), settings.get("forced_bos_token_id"))
        return [token for token in tokens if isinstance(token, int)]

    def new_model(self) -> Any:
        """Return the model as transformers initialises it, in float32."""
        with quiet_loading(f"the architecture of {self.files.name}"):
            auto: Any = transformers.AutoModelForImageTextToText
            return auto.from_config(self.config, dtype=torch.float32)

    @cached_property
    def outline(self) -> Any:
        """The model without numbers: its tensors have shapes alone."""
        with torch.device("meta"):
            return self.new_model()

    @cached_property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each parameter; tied ones occur once."""
        return {name: tuple(value.shape) for name, value in self.outline.named_parameters()}

    def load(
        self, seed: int | None, device: torch.device, dtype: torch.dtype
    ) -> tuple[Any, dict[str, str]]:
        """Return the model in evaluation mode on its device, and the digests of its parts."""
        parts = self.files.digest_side_files()
        if seed is None:
            check_stored_size(self.files, self.sizes)
        check_memory(self.files, self.sizes, dtype.itemsize if seed is None else 4)
        with torch.random.fork_rng(devices=[]), ThreadPoolExecutor(1) as thread:
            if seed is None:
                digest = thread.submit(self.files.digest_weights)
                model = self._load_stored(device, dtype)
            else:
                torch.default_generator.manual_seed(seed)
                model = self.new_model()
                digest = thread.submit(tensors_digest, self.files, model.state_dict())
            parts["weights"] = digest.result()
        if model.get_output_embeddings() is None:
            raise ClipkitError(
                f"{self.files.name}: expected a model with an output embedding, from which answers "
                f"are read, got {type(model).__name__} without"
            )
        if not hasattr(model, "hf_device_map"):
            for parameter in model.parameters():  # buffers stay: places need float32
                parameter.data = parameter.data.to(device, dtype)
            model.to(device)
        return model.eval().requires_grad_(False), parts

    def _load_stored(self, device: torch.device, dtype: torch.dtype) -> Any:
        """Return the stored model on the CPU, or spread over GPUs if it does not fit one."""
        # a GPU gets copies of the tensors, also of those that do not fit this machine's memory
        tensors = load_tensors(self.files, ("",), mapped=device.type == "cuda")
        with quiet_loading(f"the weights of {self.files.name}"):
            model, report = type(self.outline).from_pretrained(
                None,
                config=self.outline.config,
                state_dict=tensors,
                dtype=dtype,
                device_map=self._device_map(device, dtype),
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        refuse_misfits(
            self.files,
            missing=report["missing_keys"],
            mismatched=[key for key, *_shapes in report["mismatched_keys"]],
        )
        return model

    def _device_map(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Return "auto" if accelerate has to spread the model over GPUs, else None."""
        if device.type != "cuda":
            return None
        needed = dtype.itemsize * sum(map(math.prod, self.sizes.values()))
        free, _ = torch.cuda.mem_get_info(device)
        if needed < free:
            return None
        check_installed(self.files.name, "accelerate")
        console.note(f"{self.files.name} needs {needed >> 30} GiB: accelerate spreads its layers")
        return "auto"


class AskedModel(LayerTower):
    """A model that reads images with a question: inputs -> hidden states (B, D) at a position.

    `pool` is the position. The model stops after the last hidden state that is needed, and
    computes no logits.
    """

    def _pool(self, state: torch.Tensor, inputs: Inputs) -> torch.Tensor:
        """Return what hidden states (B, T, D) are at the position: (B, D), in float32 or wider.

        The layers of a large model may be on several devices.
        """
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        if self.pool == LAST and "decoder_input_ids" in inputs:  # which are not padded
            return widened(state[:, -1]).to(ids.device)
        if state.shape[:2] != ids.shape:
            raise ClipkitError(
                f"expected a hidden state for each of {tuple(ids.shape)} tokens, got "
                f"{tuple(state.shape[:2])}"
            )
        if self.pool == LAST:
            places = torch.arange(ids.shape[1], device=ids.device)
            last = (mask * places).argmax(dim=1)
            rows = torch.arange(len(ids), device=ids.device)
            return widened(state[rows.to(state.device), last.to(state.device)]).to(ids.device)
        token = getattr(self.model.config, "image_token_id", None)
        is_image = (ids == (-1 if token is None else token)) & (mask > 0)  # (B, T)
        if not is_image.any(dim=1).all():
            raise ClipkitError(
                f"expected the image_token_id of config.json in the prompt, got none of {token}",
                f"use --at {LAST}",
            )
        return mean_of_patches(widened(state), is_image.to(state.device)).to(ids.device)

    def whole(self, inputs: Inputs, **wanted: Any) -> Any:
        """Return all that the library's own model returns, with the last logits if it can."""
        if "logits_to_keep" in inspect.signature(self.model.forward).parameters:
            wanted["logits_to_keep"] = 1
        return self.model(**inputs, **wanted)


def find_layers(asked: AskedModel, inputs: Inputs) -> AskedModel:
    """Return the model with all its layers: their outputs are the library's hidden states."""
    outputs = asked.whole(inputs, output_hidden_states=True)
    outputs = outputs.get("language_model_outputs", outputs)  # of BLIP-2
    states = outputs.get("decoder_hidden_states", outputs.get("hidden_states"))
    wanted = [asked._pool(state, inputs) for state in states]
    if not all(state.isfinite().all() for state in wanted):
        raise not_finite("hidden state of a first image")
    for module in asked.model.modules():
        if not isinstance(module, torch.nn.ModuleList) or len(module) != len(wanted) - 1:
            continue
        stack = replace(asked.stack, layers=list(module))
        found = replace(asked, stack=stack, layers=tuple(range(len(wanted))))
        with contextlib.suppress(ClipkitError, TypeError, IndexError, AssertionError):
            got = found.states(inputs).values()
            for state, expected in zip(got, wanted, strict=True):
                torch.testing.assert_close(state, expected, rtol=1e-3, atol=1e-5)
            return found
    raise ClipkitError("expected layers whose outputs are its hidden states, got none")


def output_scale(asked: AskedModel, inputs: Inputs, tolerance: float) -> dict[str, float]:
    """Return the scale and the cap with which the model turns products into logits, if any.

    Any number of the configuration may be the scale, or its inverse. The one that reproduces the
    library's own logits of an image is returned.
    """
    logits = asked.whole(inputs).logits[0, -1].float()
    state = asked.states(inputs)[0].to(asked.model.dtype)
    head = asked.stack.head
    products = head(state)[0].float().to(logits.device)
    if getattr(head, "bias", None) is not None:
        products = products - head.bias  # files have no place for it
    if logits.isnan().any() or not products.isfinite().all():
        raise not_finite("next-token logit of a first image")
    is_said = logits > MASKED
    logits, products = logits[is_said], products[is_said]
    text = asked.model.config.get_text_config().to_dict()
    scales = _possible_scales([*asked.model.config.to_dict().values(), *text.values()])
    for cap in (text.get("final_logit_softcapping"), None):
        errors = [_relative_error(logits, products * scale, cap) for scale in scales]
        best = 0  # no scale at all, if that is good enough
        if errors[best] >= tolerance:
            best = errors.index(min(errors))
        if errors[best] < tolerance:
            details = {"logit_scale": scales[best], "logit_softcap": cap}
            return {name: value for name, value in details.items() if value not in (None, 1.0)}
    raise ClipkitError(
        "expected next-token logits that are products of the last hidden state and the output "
        "embedding, got others"
    )


def _possible_scales(settings: Iterable[object]) -> list[float]:
    """Return 1, and each positive number among the settings with its inverse."""
    scales = [1.0]
    for number in settings:
        if isinstance(number, int | float) and number > 0 and math.isfinite(number):
            scales += [float(number), 1 / number]
    return scales


def _relative_error(logits: torch.Tensor, products: torch.Tensor, cap: float | None) -> float:
    """Return how far products, capped if there is a cap, are from logits, as a share of these."""
    if cap is not None:
        products = torch.tanh(products / cap) * cap
    return float((products - logits).abs().max() / logits.abs().max())
