"""Time clipkit beside what it replaces, side by side in one run; what counts is the ratios.

python tests/bench/bench.py [--images 4096] [--folder IMAGES] [--model FOLDER] [--rows 200000] [--compile] [--only PART]

`embed` runs a full-size ViT-B/32 with random weights (--model takes another) against the thesis's loop: plain
transformers, the processor image by image, batches of 64, float32. `logits`, `entropy` and `zeroshot` run against numpy
and plain h5py, `probe` and `cluster` against scikit-learn (bench_probes.py).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
CLIPKIT = [sys.executable, "-m", "clipkit", "--quiet"]
PROMPTS, DIM = 415, 512
BUSY = "CLIPKIT_BENCH_BUSY"  # set by --busy, for the processes below this one, too
clock = time.process_time if BUSY in os.environ else time.perf_counter


class Ran(NamedTuple):
    seconds: float
    mebibytes: float
    out: str


def ran(*command: object, **environment: str) -> Ran:
    """Run a process: its time, peak memory, what it printed."""
    start = clock()
    process = subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        env=os.environ | environment,
        text=True,
    )
    assert process.stdout is not None
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed")
    seconds = usage.ru_utime + usage.ru_stime if BUSY in os.environ else clock() - start
    return Ran(seconds, usage.ru_maxrss / 1024, out)


def told(what: str, seconds: float, *more: str) -> None:
    print(f"{what:<44} {seconds:8.2f} s  {'  '.join(more)}", flush=True)


# the machine


def machine() -> None:
    import torch

    facts = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = next(
        (line.split(": ")[1] for line in facts.splitlines() if line.startswith("model name")),
        "unknown",
    )
    flags = [
        flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {flag} " in facts
    ]
    print(f"{name}, {os.cpu_count()} cores, {' '.join(flags)}")
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads")


def matrix_rate(dtype: str) -> float:
    """Operations a second of the products of a ViT-B layer over a batch of 64, the best of ten."""
    import torch

    best = 0.0
    shapes = [(768, 2304), (768, 768), (768, 3072), (3072, 768)]
    sides = [
        (
            torch.randn(3200, k, dtype=getattr(torch, dtype)),
            torch.randn(n, k, dtype=getattr(torch, dtype)),
        )
        for k, n in shapes
    ]
    for _ in range(10):
        start = clock()
        for a, b in sides:
            torch.nn.functional.linear(a, b)
        best = max(best, sum(2 * 3200 * k * n for k, n in shapes) / (clock() - start))
    return best


def operations(model: Path) -> float:
    """Operations of one image: the products of the layers, of attention and of the patches."""
    from transformers import AutoConfig

    vision = AutoConfig.from_pretrained(model).vision_config
    tokens, width = (vision.image_size // vision.patch_size) ** 2 + 1, vision.hidden_size
    layer = 2 * tokens * width * (4 * width + 2 * vision.intermediate_size) + 4 * tokens**2 * width
    return float(vision.num_hidden_layers * layer + 2 * tokens * 3 * vision.patch_size**2 * width)


# embed


def thesis(folder: str, model: str) -> None:
    """The thesis's loop over a folder; prints the seconds of the loop alone."""
    import torch
    from PIL import Image
    from transformers import CLIPModel, CLIPProcessor, __version__

    by_pillow = {"use_fast": False} if __version__.startswith("4.") else {"backend": "pil"}
    clip, processor = (
        CLIPModel.from_pretrained(model).eval(),
        CLIPProcessor.from_pretrained(model, **by_pillow),
    )
    files, start = sorted(Path(folder).rglob("*.jpg")), clock()
    with torch.no_grad():
        for at in range(0, len(files), 64):
            pixels = [
                processor(images=Image.open(file).convert("RGB"), return_tensors="pt")[
                    "pixel_values"
                ]
                for file in files[at : at + 64]
            ]
            clip.get_image_features(pixel_values=torch.cat(pixels))
    print(clock() - start)


def pictures(folder: Path, count: int, source: Path | None) -> Path:
    """A folder of so many JPEG files, 32 x 32 unless they are taken from elsewhere."""
    from PIL import Image

    folder.mkdir()
    found = sorted(source.rglob("*.jpg")) if source else []
    if source and len(found) < count:
        raise SystemExit(f"{source} holds {len(found)} .jpg files, fewer than {count}")
    rng = np.random.default_rng(0)
    for i in range(count):
        if source:
            (folder / f"{i:06d}.jpg").symlink_to(found[i * len(found) // count].resolve())
        else:
            small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
            small.resize((32, 32), Image.Resampling.BICUBIC).save(
                folder / f"{i:06d}.jpg", quality=90
            )
    return folder


def bench_embed(args: argparse.Namespace, scratch: Path) -> None:
    if args.model is None:
        from clip_factory import vit_b32

        args.model = vit_b32(scratch / "vit-b-32")
    n, work = args.images, operations(args.model)
    limit = matrix_rate("bfloat16")
    some = pictures(scratch / "some", max(64, n // 16), args.folder)
    loop = ran(sys.executable, __file__, "--thesis", some, args.model)
    alone = float(loop.out)
    rate = len(list(some.iterdir())) / alone
    reference = (
        loop.seconds - alone + n / rate
    )  # start-up as measured, the loop carried on at its own rate
    told(
        f"thesis's loop, {n} images (from {n // 16})", reference, f"{rate:.1f} images/s in the loop"
    )
    seconds = {}
    for count in (n // 16, n // 4, n):
        folder = pictures(scratch / f"images-{count}", count, args.folder)
        command = [*CLIPKIT, "embed", folder, "--model", args.model, "-f", "-o", scratch / "img.h5"]
        found = ran(*command)
        seconds[count] = found.seconds
        told(
            f"embed, {count} images",
            found.seconds,
            f"{count / found.seconds:.1f} images/s",
            f"{found.mebibytes:.0f} MiB",
        )
    steady = (n - n // 4) / (seconds[n] - seconds[n // 4])
    limit = max(limit, matrix_rate("bfloat16"))
    bare, share = limit / work, work / limit
    print(f"    whole process: {reference / seconds[n]:.1f} x the thesis's loop")
    print(
        f"    matrix products: bf16 {limit / 1e12:.2f} Top/s, fp32 {matrix_rate('float32') / 1e12:.2f} Top/s"
    )
    print(
        f"    bf16 products alone would give {bare:.1f} images/s; reached: {steady * share:.0%} once running"
    )
    print(f"    ({steady:.1f} images/s), {n / seconds[n] * share:.0%} as a whole process")
    if args.compile:
        for which in ("first", "again"):
            found = ran(*command, "--compile", TORCHINDUCTOR_CACHE_DIR=str(scratch / "inductor"))
            told(
                f"embed --compile, {n} images, {which}",
                found.seconds,
                f"{n / found.seconds:.1f} images/s",
            )


# logits, entropy, zeroshot


def features(path: Path, n: int) -> None:

    def blocks():
        rng = np.random.default_rng(0)
        for at in range(0, n, 8192):
            yield rng.standard_normal((min(8192, n - at), DIM), np.float32)

    from clipkit.features import BlockMatrix, FeatureFile, Split, write

    history = [{"command": "embed", "model": {"name": "made up"}}]
    split = Split(BlockMatrix((n, DIM), blocks), np.arange(n) % 100, [f"{i:07d}" for i in range(n)])
    write(
        path,
        FeatureFile("images", history, {"test": split}, class_names=[f"c{i}" for i in range(100)]),
        force=True,
    )


def prompts(path: Path) -> None:

    history = [{"command": "textembed", "model": {"name": "made up"}}]
    directions = np.random.default_rng(1).standard_normal((PROMPTS, DIM), np.float32)
    from clipkit.features import FeatureFile, write

    texts, index = [f"prompt {i}" for i in range(PROMPTS)], np.arange(PROMPTS) % 100
    names = [f"c{i}" for i in range(100)]
    write(
        path,
        FeatureFile(
            "texts", history, features=directions, texts=texts, class_index=index, class_names=names
        ),
    )


def plain(images: str, texts: str, output: str) -> None:
    """What `logits` has to do, without checks, digests or history, block by block; input already in memory."""
    import h5py

    with h5py.File(images) as a, h5py.File(texts) as b:
        x, y = a["test/features"][:], b["features"][:]
    start = clock()
    with h5py.File(output, "w", libver="v110") as file:
        out = file.create_dataset(
            "features", (len(x), len(y)), "<f4", chunks=(512, len(y)), fletcher32=True
        )
        for at in range(0, len(x), 8192):
            out[at : at + 8192] = x[at : at + 8192] @ y.T
    print(clock() - start)


def bench_logits(args: argparse.Namespace, scratch: Path) -> None:
    prompts(scratch / "txt.h5")
    for n in (args.rows // 16, args.rows // 4, args.rows):
        features(scratch / "rows.h5", n)
        bare = float(
            ran(
                sys.executable,
                __file__,
                "--plain",
                scratch / "rows.h5",
                scratch / "txt.h5",
                scratch / "p.h5",
            ).out
        )
        told(f"numpy product and HDF5 write, {n} rows", bare)
        found = ran(
            *CLIPKIT,
            "logits",
            scratch / "rows.h5",
            scratch / "txt.h5",
            "-f",
            "-o",
            scratch / "l.h5",
        )
        told(
            f"logits, {n} rows",
            found.seconds,
            f"{found.seconds / bare:.2f} x",
            f"{found.mebibytes:.0f} MiB",
        )
    for command in (["entropy"], ["entropy", "-t", "1,0.5,0.07,0.03"], ["zeroshot"]):
        found = ran(*CLIPKIT, command[0], scratch / "l.h5", *command[1:])
        told(
            f"{' '.join(command)}, {n} rows",
            found.seconds,
            f"{found.seconds / bare:.2f} x",
            f"{found.mebibytes:.0f} MiB",
        )


def bench_probes(args: argparse.Namespace, scratch: Path) -> None:
    subprocess.run([sys.executable, HERE / "bench_probes.py", *args.probes.split()], check=True)


PARTS = {"embed": bench_embed, "logits": bench_logits, "probes": bench_probes}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--images",
        type=int,
        default=1024,
        help="how many are embedded; 4096 is what the targets name",
    )
    parser.add_argument("--folder", type=Path, help="where .jpg files lie; made up by default")
    parser.add_argument(
        "--model", type=Path, help="a model's folder; by default a random ViT-B/32 is made"
    )
    parser.add_argument("--compile", action="store_true", help="time embed --compile, too")
    parser.add_argument(
        "--rows", type=int, default=200_000, help="of logits; 1000000 is what the targets name"
    )
    parser.add_argument(
        "--probes", default="--rows 5000 --eval-rows 2000 --classes 20", help="for bench_probes.py"
    )
    parser.add_argument(
        "--busy", action="store_true", help="one thread each, processor time: for a busy machine"
    )
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--thesis", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--plain", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.thesis:
        return thesis(*args.thesis)
    if args.plain:
        return plain(*args.plain)
    if args.busy and BUSY not in os.environ:
        threads = dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"], "1")
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | threads | {BUSY: "1"})
    machine()
    with tempfile.TemporaryDirectory(prefix="clipkit-bench-") as scratch:
        for name, part in PARTS.items():
            if args.only in (None, name):
                part(args, Path(scratch))
    return None


if __name__ == "__main__":
    main()
