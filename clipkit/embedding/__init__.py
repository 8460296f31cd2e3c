"""A data set through an encoder, into rows: in shards that survive an interruption, so that the next run continues.

A shard is a feature file `NNNNN.h5` of at most 1,024 images in a folder `OUT.partial`, beside `NNNNN.json` (its rows,
and the images that could not be used), which is written last and makes the shard count. `manifest.json` says what
determines the result; a run that would give another one is refused. Every shard names the run that it belongs to, and
one that is damaged is made again. Batches never cross a shard's edge, so that the rows do not depend on where a run was
interrupted.
"""

from clipkit.embedding.checkpoint import SHARD, Images, Shard, Work, working
from clipkit.embedding.pipeline import ImageEncoder, collect, default_workers, run

__all__ = [
    "SHARD",
    "ImageEncoder",
    "Images",
    "Shard",
    "Work",
    "collect",
    "default_workers",
    "run",
    "working",
]
