"""Time clipkit and what it replaces in one run; the ratios count.

python tests/bench/bench.py [--images 4096] [--folder IMAGES] [--model FOLDER] [--rows 200000]
                            [--compile] [--only PART]

`embed` runs a full-size ViT-B/32 with random weights (--model names another) against the thesis's
loop: plain transformers, the processor image by image, batches of 64, float32. `logits`, `entropy`
and `zeroshot` run against numpy and plain h5py, `probe` and `cluster` against scikit-learn
(bench_probes.py).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
CLIPKIT = [sys.executable, "-m", "clipkit", "--quiet"]
N_PROMPTS = 415
DIM = 512
N_CLASSES = 100
BLOCK = 8192  # rows
BUSY = "CLIPKIT_BENCH_BUSY"  # set by --busy, also for the processes that this one starts
clock = time.process_time if BUSY in os.environ else time.perf_counter


class Run(NamedTuple):
    seconds: float
    mebibytes: float  # peak memory
    stdout: str


def run(*command: object, **environment: str) -> Run:
    """Run a process and measure it."""
    start = clock()
    process = subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        env=os.environ | environment,
        text=True,
    )
    assert process.stdout is not None
    stdout = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed")
    seconds = usage.ru_utime + usage.ru_stime if BUSY in os.environ else clock() - start
    return Run(seconds, usage.ru_maxrss / 1024, stdout)


def report(what: str, seconds: float, *more: str) -> None:
    print(f"{what:<44} {seconds:8.2f} s  {'  '.join(more)}", flush=True)


# the machine


def report_machine() -> None:
    import torch

    cpuinfo = Path("/proc/cpuinfo")
    facts = cpuinfo.read_text() if cpuinfo.exists() else ""
    names = [line.split(": ")[1] for line in facts.splitlines() if line.startswith("model name")]
    flags = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    present = " ".join(flag for flag in flags if f" {flag} " in facts)
    print(f"{names[0] if names else 'unknown'}, {os.cpu_count()} cores, {present}")
    print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads")


def matrix_rate(dtype: str) -> float:
    """Return operations per second of a ViT-B layer's products on a batch of 64, best of ten."""
    import torch

    kind = getattr(torch, dtype)
    shapes = [(768, 2304), (768, 768), (768, 3072), (3072, 768)]
    pairs = [(torch.randn(3200, k, dtype=kind), torch.randn(n, k, dtype=kind)) for k, n in shapes]
    operations = sum(2 * 3200 * k * n for k, n in shapes)
    best = 0.0
    for _ in range(10):
        start = clock()
        for x, weight in pairs:
            torch.nn.functional.linear(x, weight)
        best = max(best, operations / (clock() - start))
    return best


def operations_per_image(model: Path) -> float:
    """Count operations of one image: the products of layers, attention and patches."""
    from transformers import AutoConfig

    vision = AutoConfig.from_pretrained(model).vision_config
    tokens = (vision.image_size // vision.patch_size) ** 2 + 1
    width = vision.hidden_size
    products = 2 * tokens * width * (4 * width + 2 * vision.intermediate_size)
    attention = 4 * tokens**2 * width
    patches = 2 * tokens * 3 * vision.patch_size**2 * width
    return float(vision.num_hidden_layers * (products + attention) + patches)


# embed


def run_thesis_loop(folder: str, model: str) -> None:
    """Embed a folder as the thesis's loop does; print the seconds of the loop alone."""
    import torch
    from PIL import Image
    from transformers import CLIPModel, CLIPProcessor, __version__

    by_pillow = {"use_fast": False} if __version__.startswith("4.") else {"backend": "pil"}
    clip = CLIPModel.from_pretrained(model).eval()
    processor = CLIPProcessor.from_pretrained(model, **by_pillow)

    def pixels(file: Path) -> torch.Tensor:
        image = Image.open(file).convert("RGB")
        return processor(images=image, return_tensors="pt")["pixel_values"]

    files = sorted(Path(folder).rglob("*.jpg"))
    start = clock()
    with torch.no_grad():
        for i in range(0, len(files), 64):
            batch = torch.cat([pixels(file) for file in files[i : i + 64]])
            clip.get_image_features(pixel_values=batch)
    print(clock() - start)


def write_pictures(folder: Path, count: int, source: Path | None) -> Path:
    """Fill a folder with JPEG files: links to those of `source`, or made-up ones of 32 x 32."""
    from PIL import Image

    folder.mkdir()
    if source:
        files = sorted(source.rglob("*.jpg"))
        if len(files) < count:
            raise SystemExit(f"{source} holds {len(files)} .jpg files, fewer than {count}")
        for i in range(count):
            target = files[i * len(files) // count]
            (folder / f"{i:06d}.jpg").symlink_to(target.resolve())
        return folder
    rng = np.random.default_rng(0)
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        image = small.resize((32, 32), Image.Resampling.BICUBIC)
        image.save(folder / f"{i:06d}.jpg", quality=90)
    return folder


def bench_embed(args: argparse.Namespace, scratch: Path) -> None:
    if args.model is None:
        from clip_factory import vit_b32

        args.model = vit_b32(scratch / "vit-b-32")
    n = args.images
    limit = matrix_rate("bfloat16")

    # start-up as measured, and the loop continued at its own rate
    sample = write_pictures(scratch / "sample", max(64, n // 16), args.folder)
    loop = run(sys.executable, __file__, "--thesis", sample, args.model)
    loop_seconds = float(loop.stdout)
    rate = len(list(sample.iterdir())) / loop_seconds
    thesis = loop.seconds - loop_seconds + n / rate
    report(f"thesis's loop, {n} images (from {n // 16})", thesis, f"{rate:.1f} images/s in it")

    seconds = {}
    for count in (n // 16, n // 4, n):
        folder = write_pictures(scratch / f"images-{count}", count, args.folder)
        command = [*CLIPKIT, "embed", folder, "--model", args.model, "-f", "-o", scratch / "img.h5"]
        embed = run(*command)
        seconds[count] = embed.seconds
        speed = f"{count / embed.seconds:.1f} images/s"
        report(f"embed, {count} images", embed.seconds, speed, f"{embed.mebibytes:.0f} MiB")
    limit = max(limit, matrix_rate("bfloat16"))
    fp32_limit = matrix_rate("float32")
    products_alone = limit / operations_per_image(args.model)  # images per second
    steady = (n - n // 4) / (seconds[n] - seconds[n // 4])
    overall = n / seconds[n]
    print(f"    whole process: {thesis / seconds[n]:.1f} x the thesis's loop")
    print(f"    products: bf16 {limit / 1e12:.2f} Top/s, fp32 {fp32_limit / 1e12:.2f} Top/s")
    print(f"    bf16 products alone would give {products_alone:.1f} images/s; reached:")
    print(f"    {steady / products_alone:.0%} once running ({steady:.1f} images/s)")
    print(f"    {overall / products_alone:.0%} as a whole process")

    if args.compile:
        for which in ("first", "again"):
            cache = str(scratch / "inductor")
            embed = run(*command, "--compile", TORCHINDUCTOR_CACHE_DIR=cache)
            speed = f"{n / embed.seconds:.1f} images/s"
            report(f"embed --compile, {n} images, {which}", embed.seconds, speed)


# logits, entropy, zeroshot


def write_images(path: Path, n: int) -> None:
    """Write n made-up embeddings, block by block."""
    from clipkit.features import BlockMatrix, FeatureFile, Split, write

    def blocks() -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        for start in range(0, n, BLOCK):
            yield rng.standard_normal((min(BLOCK, n - start), DIM), np.float32)

    labels = np.arange(n) % N_CLASSES
    split = Split(BlockMatrix((n, DIM), blocks), labels, [f"{i:07d}" for i in range(n)])
    file = FeatureFile("images", history("embed"), {"test": split}, class_names=class_names())
    write(path, file, force=True)


def write_texts(path: Path) -> None:
    from clipkit.features import FeatureFile, write

    file = FeatureFile("texts", history("textembed"), class_names=class_names())
    file.features = np.random.default_rng(1).standard_normal((N_PROMPTS, DIM), np.float32)
    file.texts = [f"prompt {i}" for i in range(N_PROMPTS)]
    file.class_index = np.arange(N_PROMPTS) % N_CLASSES
    write(path, file)


def history(command: str) -> list[dict[str, object]]:
    return [{"command": command, "model": {"name": "made up"}}]


def class_names() -> list[str]:
    return [f"c{i}" for i in range(N_CLASSES)]


def run_plain_product(images: str, texts: str, output: str) -> None:
    """Do what `logits` does without checks, digests and history, with the input in memory."""
    import h5py

    with h5py.File(images) as a, h5py.File(texts) as b:
        x, y = a["test/features"][:], b["features"][:]
    start = clock()
    with h5py.File(output, "w", libver="v110") as file:
        shape, chunks = (len(x), len(y)), (512, len(y))
        out = file.create_dataset("features", shape, "<f4", chunks=chunks, fletcher32=True)
        for i in range(0, len(x), BLOCK):
            out[i : i + BLOCK] = x[i : i + BLOCK] @ y.T
    print(clock() - start)


def bench_logits(args: argparse.Namespace, scratch: Path) -> None:
    images, texts, logits = (scratch / name for name in ("images.h5", "texts.h5", "logits.h5"))
    write_texts(texts)

    def compare(what: str, command: Run, plain: float) -> None:
        ratio = f"{command.seconds / plain:.2f} x"
        report(what, command.seconds, ratio, f"{command.mebibytes:.0f} MiB")

    for n in (args.rows // 16, args.rows // 4, args.rows):
        write_images(images, n)
        product = run(sys.executable, __file__, "--plain", images, texts, scratch / "plain.h5")
        plain = float(product.stdout)
        report(f"numpy product and HDF5 write, {n} rows", plain)
        command = run(*CLIPKIT, "logits", images, texts, "-f", "-o", logits)
        compare(f"logits, {n} rows", command, plain)
    for name, *options in (["entropy"], ["entropy", "-t", "1,0.5,0.07,0.03"], ["zeroshot"]):
        command = run(*CLIPKIT, name, logits, *options)
        compare(f"{' '.join([name, *options])}, {n} rows", command, plain)


def bench_probes(args: argparse.Namespace, scratch: Path) -> None:
    subprocess.run([sys.executable, HERE / "bench_probes.py", *args.probes.split()], check=True)


PARTS = {"embed": bench_embed, "logits": bench_logits, "probes": bench_probes}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--images", type=int, default=1024, help="images to embed; the targets name 4096")
    add("--folder", type=Path, help="a folder of .jpg files; made up by default")
    add("--model", type=Path, help="a model's folder; a random ViT-B/32 by default")
    add("--compile", action="store_true", help="also time embed --compile")
    add("--rows", type=int, default=200_000, help="rows of logits; the targets name 1000000")
    probes = "--rows 5000 --eval-rows 2000 --classes 20"
    add("--probes", default=probes, help="options for bench_probes.py")
    busy = "processor time of one thread, for a machine that others use"
    add("--busy", action="store_true", help=busy)
    add("--only", choices=PARTS)
    add("--thesis", nargs=2, help=argparse.SUPPRESS)
    add("--plain", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.thesis:
        return run_thesis_loop(*args.thesis)
    if args.plain:
        return run_plain_product(*args.plain)
    if args.busy and BUSY not in os.environ:
        threads = dict.fromkeys(["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"], "1")
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | threads | {BUSY: "1"})
    report_machine()
    with tempfile.TemporaryDirectory(prefix="clipkit-bench-") as scratch:
        for name, bench in PARTS.items():
            if args.only in (None, name):
                bench(args, Path(scratch))
    return None


if __name__ == "__main__":
    main()
