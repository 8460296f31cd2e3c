"""Embed data sets and prompts: what `clipkit embed` and `clipkit textembed` run.

`engines` decode, preprocess and encode images. `ray_engine` does so on several machines, which
`ray_cluster` connects to. `checkpoint` stores embeddings in shards, so that an interrupted run
can continue. `pipeline` joins both. `texts` embeds prompts and class names. `trial` tries an
encoder on a few images.
"""

from clipkit.datasets.captions import read_captions
from clipkit.datasets.items import read_items
from clipkit.embedding.checkpoint import Part
from clipkit.embedding.pipeline import check_outputs, embed, embed_images, name_layer_outputs
from clipkit.embedding.textembed import (
    choose_model,
    embed_captions,
    embed_classes,
    embed_items,
    embed_queries,
    embed_texts,
    follow_question,
    list_choices,
    name_outputs,
    read_class_names,
    read_prompts,
    read_templates,
)
from clipkit.prompts.formats import DEFAULT_TEMPLATE, ClassNames

__all__ = [
    "DEFAULT_TEMPLATE",
    "ClassNames",
    "Part",
    "check_outputs",
    "choose_model",
    "embed",
    "embed_captions",
    "embed_classes",
    "embed_images",
    "embed_items",
    "embed_queries",
    "embed_texts",
    "follow_question",
    "list_choices",
    "name_layer_outputs",
    "name_outputs",
    "read_captions",
    "read_class_names",
    "read_items",
    "read_prompts",
    "read_templates",
]
