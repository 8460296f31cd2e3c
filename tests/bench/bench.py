"""Time clipkit and what it replaces in one run; the ratios count.

`embed` runs a full-size ViT-B/32 with random weights (--model names another) against the thesis's
loop: plain transformers, the processor image by image, batches of 64, float32. `textembed` runs
against the import of PyTorch. `logits`, `entropy` and `zeroshot` run against numpy and plain h5py,
`nearest` against numpy's product alone,
`probe` and `cluster` against scikit-learn, on random embeddings like CLIP's. `--only imagenet` fits
logistic regression to many rows and classes, against scikit-learn and PyTorch's L-BFGS. `--only
commands` runs every command on a file of that form: 1,000 overlapping classes, ids, 1,000 prompts
and a table of 40 attributes. `--only thesis` runs the chapters of the thesis on features of
CIFAR-100's size: see thesis.py.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
CLIPKIT = [sys.executable, "-m", "clipkit", "--quiet"]
N_PROMPTS = 415
FEW_PROMPTS = 32
NEAREST = 10  # images of each prompt
DIM = 512
N_CLASSES = 100
BLOCK = 8192  # rows
KMEANS_ROWS = 10_000
IMAGENET = 1_281_167  # rows
FEW_CLASSES = 20
TEMPERATURES = (1.0, 0.5, 0.07, 0.05, 0.03, 0.02)
BUSY = "CLIPKIT_BENCH_BUSY"  # set by --busy, also for the processes that this one starts
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
clock = time.process_time if BUSY in os.environ else time.perf_counter


class Run(NamedTuple):
    seconds: float
    mebibytes: float  # peak memory
    stdout: str


def run(*command: object) -> Run:
    """Run a process and measure it."""
    start = clock()
    line = [str(word) for word in command]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
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

    facts = Path("/proc/cpuinfo").read_text()
    names = re.findall("model name.*: (.+)", facts)
    flags = sorted(set(re.findall(r"\b(?:avx2|avx512f|avx512_bf16|amx_bf16)\b", facts)))
    print(*names[:1], f"{os.cpu_count()} cores", *flags, sep=", ")
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
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, CLIPVisionModel

    config = AutoConfig.from_pretrained(model).vision_config
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        size = config.image_size
        CLIPVisionModel(config)(pixel_values=torch.empty(1, 3, size, size))
    return float(counter.get_total_flops())


# textembed


def bench_textembed(args: argparse.Namespace, scratch: Path) -> None:
    model = full_size_model(args, scratch)
    prompts = scratch / "prompts.txt"
    prompts.write_text("".join(f"a photo of thing {i}\n" for i in range(FEW_PROMPTS)))
    command = (*CLIPKIT, "textembed", prompts, "--model", model, "-f", "-o", scratch / "txt.h5")
    torch = best(lambda: run(sys.executable, "-c", "import torch"))
    report("import torch", torch.seconds)
    texts = best(lambda: run(*command))
    ratio = f"{texts.seconds / torch.seconds:.2f} x"
    report(f"textembed, {FEW_PROMPTS} prompts", texts.seconds, ratio, f"{texts.mebibytes:.0f} MiB")


def best(measure: Callable[[], Run]) -> Run:
    """Return the fastest of five runs: the first reads files that are not in memory yet."""
    return min(measure() for _ in range(5))


# embed


def full_size_model(args: argparse.Namespace, scratch: Path) -> Path:
    from factories.clips import vit_b32

    folder = scratch / "vit-b-32"
    if args.model:
        folder = args.model
    elif not folder.exists():
        vit_b32(folder)
    return folder


def run_thesis_loop(folder: str, model: str) -> None:
    """Embed a folder as the thesis's loop does; print the seconds of the loop alone."""
    import torch
    from PIL import Image
    from transformers import CLIPModel, CLIPProcessor

    clip = CLIPModel.from_pretrained(model).eval()
    processor = CLIPProcessor.from_pretrained(model, backend="pil")

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
    files = sorted(source.rglob("*.jpg")) if source else []
    if source and len(files) < count:
        raise SystemExit(f"{source} holds {len(files)} .jpg files, fewer than {count}")
    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / f"{i:06d}.jpg"
        if source:
            path.symlink_to(files[i * len(files) // count].resolve())
        else:
            small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
            small.resize((32, 32), Image.Resampling.BICUBIC).save(path, quality=90)
    return folder


def bench_embed(args: argparse.Namespace, scratch: Path) -> None:
    model = full_size_model(args, scratch)
    n = args.images
    limit = matrix_rate("bfloat16")

    # start-up as measured, and the loop continued at its own rate
    sample = write_pictures(scratch / "sample", max(64, n // 16), args.folder)
    loop = run(sys.executable, __file__, "--thesis", sample, model)
    loop_seconds = float(loop.stdout)
    rate = len(list(sample.iterdir())) / loop_seconds
    thesis = loop.seconds - loop_seconds + n / rate
    report(f"thesis's loop, {n} images (from {n // 16})", thesis, f"{rate:.1f} images/s in it")

    seconds = {}
    for count in (n // 16, n // 4, n):
        folder = write_pictures(scratch / f"images-{count}", count, args.folder)
        embed = run(*CLIPKIT, "embed", folder, "--model", model, "-f", "-o", scratch / "img.h5")
        seconds[count] = embed.seconds
        speed = f"{count / embed.seconds:.1f} images/s"
        report(f"embed, {count} images", embed.seconds, speed, f"{embed.mebibytes:.0f} MiB")
    limit = max(limit, matrix_rate("bfloat16"))
    fp32_limit = matrix_rate("float32")
    products_alone = limit / operations_per_image(model)  # images per second
    steady = (n - n // 4) / (seconds[n] - seconds[n // 4])
    overall = n / seconds[n]
    print(f"    whole process: {thesis / seconds[n]:.1f} x the thesis's loop")
    print(f"    products: bf16 {limit / 1e12:.2f} Top/s, fp32 {fp32_limit / 1e12:.2f} Top/s")
    print(f"    bf16 products alone would give {products_alone:.1f} images/s; reached:")
    print(f"    {steady / products_alone:.0%} once running ({steady:.1f} images/s)")
    print(f"    {overall / products_alone:.0%} as a whole process")


# logits, entropy, zeroshot


Draw = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # rows for labels


def drawn_split(labels: np.ndarray, ids: list[str], seed: int, draw: Draw) -> Any:
    """Return a split whose embeddings are drawn again, block by block, whenever they are read."""
    from clipkit.features import BlockMatrix, Split

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, len(labels), BLOCK):
            rng = np.random.default_rng((seed, start))
            yield draw(labels[start : start + BLOCK], rng).astype(np.float32, copy=False)

    return Split(BlockMatrix((len(labels), DIM), blocks), labels, ids)


def write_splits(path: Path, splits: dict[str, Any], names: list[str]) -> None:
    """Write splits of embeddings, of classes with these names."""
    from factories import MODEL

    from clipkit.features import FeatureFile, write

    file = FeatureFile("images", [{"command": "embed", "model": MODEL}], splits, class_names=names)
    write(path, file, force=True)


def write_images(path: Path, n: int) -> None:
    """Write n made-up embeddings."""

    def draw(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return rng.standard_normal((len(labels), DIM), np.float32)

    ids = [f"{i:07d}" for i in range(n)]
    split = drawn_split(np.arange(n) % N_CLASSES, ids, 0, draw)
    write_splits(path, {"test": split}, [f"c{i}" for i in range(N_CLASSES)])


def write_texts(path: Path, features: np.ndarray) -> None:
    from factories import write_feature_file

    datasets = {
        "features": features,
        "texts": [f"prompt {i}" for i in range(len(features))],
        "class_index": np.arange(len(features)) % N_CLASSES,
        "class_names": [f"c{i}" for i in range(N_CLASSES)],
    }
    write_feature_file(path, "texts", datasets=datasets)


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
    from factories import random_features

    images, texts, logits = (scratch / name for name in ("images.h5", "texts.h5", "logits.h5"))
    write_texts(texts, random_features(N_PROMPTS, DIM, seed=1))
    rows = args.rows or 200_000

    def compare(what: str, command: Run, plain: float) -> None:
        ratio = f"{command.seconds / plain:.2f} x"
        report(what, command.seconds, ratio, f"{command.mebibytes:.0f} MiB")

    for n in (rows // 16, rows // 4, rows):
        write_images(images, n)
        product = run(sys.executable, __file__, "--plain", images, texts, scratch / "plain.h5")
        plain = float(product.stdout)
        report(f"numpy product and HDF5 write, {n} rows", plain)
        command = run(*CLIPKIT, "logits", images, texts, "-f", "-o", logits)
        compare(f"logits, {n} rows", command, plain)
    for name, *options in (["entropy"], ["entropy", "-t", "1,0.5,0.07,0.03"], ["zeroshot"]):
        command = run(*CLIPKIT, name, logits, *options)
        compare(f"{' '.join([name, *options])}, {n} rows", command, plain)
    bench_zeroshot(images, texts)


def run_plain_zeroshot(images: str, texts: str) -> None:
    """Find the best text of each row in blocks, from the file, without checks and digests."""
    import h5py

    start = clock()
    with h5py.File(images) as a, h5py.File(texts) as b:
        features, y = a["test/features"], b["features"][:]
        y /= np.linalg.norm(y, axis=1, keepdims=True)
        for i in range(0, len(features), BLOCK):
            x = features[i : i + BLOCK]
            x /= np.linalg.norm(x, axis=1, keepdims=True)
            (x @ y.T).argmax(axis=1)
    print(clock() - start)


def bench_zeroshot(images: Path, texts: Path) -> None:
    """Time zero-shot classification from images and texts, by numpy, and through a pipe."""
    plain = float(run(sys.executable, __file__, "--plain-zeroshot", images, texts).stdout)
    report("numpy from the file, in blocks", plain)
    direct = run(*CLIPKIT, "zeroshot", images, texts)
    ratio = f"{direct.seconds / plain:.2f} x"
    report("zeroshot of images and texts", direct.seconds, ratio, f"{direct.mebibytes:.0f} MiB")
    clipkit = shlex.join(CLIPKIT)
    piped = run("sh", "-c", f"{clipkit} logits {images} {texts} | {clipkit} zeroshot -")
    report("logits | zeroshot", piped.seconds, f"{piped.seconds / plain:.2f} x")


# nearest


def bench_nearest(args: argparse.Namespace, scratch: Path) -> None:
    """Time a search for prompts beside numpy's product of the same rows.

    A thousandth of the rows are copies of the first, so that cosines tie.
    """
    from factories import random_features

    from clipkit.analysis.nearest import neighbours
    from clipkit.features import read, similarity

    images, texts = scratch / "images.h5", scratch / "texts.h5"
    n = args.rows or 200_000
    write_images(images, n)
    X = read(images).splits["test"].features
    X[::1000] = X[0]
    for count in (FEW_PROMPTS, N_PROMPTS):
        queries = similarity.normalize(random_features(count, DIM, seed=1))
        queries[0] = similarity.normalize(X[:1])[0]
        write_texts(texts, queries)
        start = clock()
        for row in range(0, n, BLOCK):
            queries @ X[row : row + BLOCK].T
        product = clock() - start
        report(f"numpy product, {n} rows, {count} prompts", product)
        start = clock()
        found = neighbours.find(queries, X, NEAREST, name="images")
        seconds = clock() - start
        report(f"the {NEAREST} nearest of each prompt", seconds, f"{seconds / product:.2f} x")
        print(f"    as numpy's stable sort: {is_stable_sort(found.rows, queries, X)}")
        command = run(*CLIPKIT, "nearest", images, texts, "-k", NEAREST)
        report("nearest, from a file", command.seconds)


def is_stable_sort(found: np.ndarray, queries: np.ndarray, X: np.ndarray) -> bool:
    """Whether the rows (Q, k) are the first of a stable sort, by up to 32 of the queries."""
    from clipkit.features import similarity

    few = queries[:FEW_PROMPTS]
    cosines = np.empty((len(few), len(X)), np.float32)
    for row in range(0, len(X), BLOCK):
        unit = similarity.normalize(X[row : row + BLOCK])
        cosines[:, row : row + BLOCK] = similarity.products(few, unit)
    for own, of_query in zip(found, cosines, strict=False):
        if (np.argsort(-of_query, kind="stable")[: len(own)] != own).any():
            return False
    return True


# probe, cluster


def random_embeddings(rows: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw labels and their embeddings."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(rows) % classes)
    return draw_embeddings(labels, classes, rng), labels


def draw_embeddings(labels: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Draw class means and noise of one decaying spectrum, away from the origin.

    The means are the same for every generator.
    """
    powers = 1 / np.arange(1, DIM + 1)
    spectrum = np.sqrt(powers / np.mean(powers))
    shared = np.random.default_rng(0)
    means = 0.17 * shared.standard_normal((classes, DIM)) * spectrum  # the factor sets the accuracy
    offset = shared.standard_normal(DIM)
    features = offset + means[labels] + rng.standard_normal((len(labels), DIM)) * spectrum
    return features.astype(np.float32)


def timed(what: str, work: Callable[[], Any]) -> tuple[Any, float]:
    start, cpu = clock(), time.process_time()
    result = work()
    seconds = clock() - start
    report(what, seconds, f"{time.process_time() - cpu:.2f} s of processor time")
    return result, seconds


def compare_logistic_regression(
    X: np.ndarray, y: np.ndarray, X_eval: np.ndarray, predicted: np.ndarray
) -> None:
    """Time scikit-learn's solvers: one that stops early, and one that goes on to the optimum."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    solvers: dict[str, dict[str, Any]] = {
        "lbfgs, stops early": {},
        "newton-cg, tol=1e-7": {"solver": "newton-cg", "tol": 1e-7},
    }
    for title, options in solvers.items():
        model = make_pipeline(StandardScaler(), LogisticRegression(**options))
        expected, _ = timed(title, lambda model=model: model.fit(X, y).predict(X_eval))
        print(f"    same predictions as probe: {np.mean(expected == predicted):.4%}")


def cosines(images: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    images = images / np.linalg.norm(images, axis=1, keepdims=True)
    prompts = prompts / np.linalg.norm(prompts, axis=1, keepdims=True)
    return (images @ prompts.T).astype(np.float32)


def bench_cosines(n: int) -> None:
    """Fit cosines to 32 prompts, about 0.2 +- 0.03: most rows are support vectors."""
    from sklearn.svm import SVC

    from clipkit import probes

    images, y = random_embeddings(n, 10, seed=1)
    unseen, _ = random_embeddings(n // 5, 10, seed=2)
    prompts = np.random.default_rng(3).standard_normal((32, DIM)) + 0.3 * images.mean(axis=0)
    X, X_eval = cosines(images, prompts), cosines(unseen, prompts)
    print(f"{n} x 32 cosines of 10 classes, {X.mean():.2f} +- {X.std(axis=0).mean():.2f}")
    (run,), seconds = timed("probe svm, cosines", lambda: probes.sweep(X, y, X_eval))
    svc = SVC(kernel="linear")
    expected, svc_seconds = timed("SVC, cosines", lambda: svc.fit(X, y).predict(X_eval))
    same = np.mean(expected == run.predicted)
    print(f"    {svc.n_support_.sum()} support vectors")
    print(f"    SVC / probe = {svc_seconds / seconds:.1f}; same predictions: {same:.4%}")


def bench_probes(args: argparse.Namespace, scratch: Path) -> None:
    from sklearn.cluster import KMeans
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    from clipkit import probes
    from clipkit.analysis.cluster import clustering

    n = args.probe_rows
    n_classes = min(N_CLASSES, n // 250)
    X, y = random_embeddings(n, n_classes, seed=1)
    X_eval, y_eval = random_embeddings(n // 5, n_classes, seed=2)

    def probe(title: str, **options: Any) -> tuple[np.ndarray, float]:
        runs, seconds = timed(title, lambda: probes.sweep(X, y, X_eval, **options))
        predicted = runs[0].predicted
        print(f"    accuracy {np.mean(predicted == y_eval):.4f}, converged {runs[0].converged}")
        return predicted, seconds

    for classifier in probes.CLASSIFIERS:
        predicted, seconds = probe(f"probe {classifier}", classifier=classifier, standardize=True)
        if classifier == "svm":
            svc = make_pipeline(StandardScaler(), SVC(kernel="linear"))
            expected, svc_seconds = timed("SVC", lambda svc=svc: svc.fit(X, y).predict(X_eval))
            same = np.mean(expected == predicted)
            print(f"    SVC / probe = {svc_seconds / seconds:.1f}; same predictions: {same:.4%}")
        if classifier == "logreg":
            compare_logistic_regression(X, y, X_eval, predicted)
    scales = [1 / tau for tau in TEMPERATURES]
    probe(f"probe svm, {len(scales)} temperatures", scales=scales)
    bench_cosines(n)
    X = X[:KMEANS_ROWS]
    for algorithm in ("lloyd", "elkan"):
        plain = KMeans(N_CLASSES, random_state=42, n_init=10, algorithm=algorithm)
        timed(f"KMeans, {algorithm}, {len(X)} rows", lambda plain=plain: plain.fit(X))
    timed(f"clustering.kmeans, {len(X)} rows", lambda: clustering.kmeans(X, N_CLASSES))


# logistic regression of many classes


def write_embeddings(path: Path, rows: int, classes: int) -> None:
    """Write rows to fit on and a twentieth as many to score, of classes that overlap."""
    splits = {}
    for seed, (name, count) in enumerate((("train", rows), ("test", max(classes, rows // 20))), 1):
        labels = np.random.default_rng(seed).permutation(np.arange(count) % classes)
        ids = [f"{name}{i:07d}" for i in range(count)]
        splits[name] = drawn_split(
            labels, ids, seed, lambda labels, rng: draw_embeddings(labels, classes, rng)
        )
    write_splits(path, splits, [f"c{i}" for i in range(classes)])


def pass_seconds(rows: int, classes: int) -> float:
    """Return how long the two products of an evaluation take alone, in blocks of rows."""
    rng = np.random.default_rng(0)
    X, W = rng.random((BLOCK, DIM), np.float32), rng.random((DIM, classes), np.float32)
    best = np.inf
    for _ in range(5):
        start = clock()
        X.T @ (X @ W)
        best = min(best, clock() - start)
    return best * rows / BLOCK


def run_fit(path: str, kept: str) -> None:
    """Fit and keep a probe; print how many evaluations of the objective it took, and seconds."""
    from clipkit import features
    from clipkit.analysis.probe.evaluation import ProbeSpec, evaluate_grid
    from clipkit.probes import logistic

    seconds = []
    evaluate = logistic.Objective.evaluate

    def timed_evaluate(*arguments: Any, **options: Any) -> logistic.Point:
        start = clock()
        point = evaluate(*arguments, **options)
        seconds.append(clock() - start)
        return point

    logistic.Objective.evaluate = timed_evaluate
    with features.open_file(path) as file:
        features.write(kept, evaluate_grid(file, ProbeSpec("logreg"), keep=True), force=True)
    print(len(seconds), sum(seconds))


def gradient_share(blocks: Iterator[np.ndarray], labels: np.ndarray, table: np.ndarray) -> float:
    """Return the gradient's norm at coefficients (D + 1, n), as a share of the one at 0; C is 1."""
    from scipy.special import softmax

    n = table.shape[1]
    last, first = table[:-1].copy(), np.zeros_like(table[:-1])
    start = 0
    for X in blocks:
        truth = np.eye(n)[labels[start : start + len(X)]]
        last += X.T @ (softmax(X @ table[:-1] + table[-1], axis=1) - truth)
        first += X.T @ (1 / n - truth)
        start += len(X)
    return float(np.linalg.norm(last) / np.linalg.norm(first))


def report_gradient(path: Path, kept: Path) -> None:
    """Print the gradient at the kept probe, of the objective in standardised columns."""
    from clipkit import features
    from clipkit.probes import FittedProbe

    probe = FittedProbe.from_arrays(features.read(kept).fitted)
    rms = probe.preparation.rms
    table = probe.model.coefficients.copy()
    table[:-1] /= rms
    with features.open_file(path) as file:
        train = file.splits["train"]
        blocks = (rms * probe.prepare(block) for block in train.features.iter_blocks())
        share = gradient_share(blocks, train.labels, table)
    print(f"    gradient: {share:.1e} of the first", flush=True)


def run_peer(name: str, path: str, kept: str) -> None:
    """Fit a peer in float32; print seconds, share of the gradient, and of equal predictions."""
    import torch
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    from clipkit import features

    file = features.read(path)
    train, test = file.splits["train"], file.splits["test"]
    scaler = StandardScaler()
    X, X_eval, y = scaler.fit_transform(train.features), test.features, train.labels
    start = clock()
    if name == "scikit-learn":
        model = LogisticRegression(max_iter=1000).fit(X, y)
        table = np.vstack([model.coef_.T, model.intercept_])
    else:
        layer = torch.nn.Linear(DIM, int(y.max()) + 1)
        torch.nn.init.zeros_(layer.weight)
        inputs, labels = torch.from_numpy(X), torch.from_numpy(y)
        options = {"max_iter": 1000, "history_size": 10, "line_search_fn": "strong_wolfe"}
        optimizer = torch.optim.LBFGS(layer.parameters(), **options)

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            entropy = torch.nn.functional.cross_entropy(layer(inputs), labels)
            value = entropy + 0.5 * layer.weight.square().sum() / len(inputs)
            value.backward()
            return value

        optimizer.step(loss)
        table = np.vstack([layer.weight.detach().numpy().T, layer.bias.detach().numpy()])
    seconds = clock() - start
    blocks = (X[start : start + BLOCK] for start in range(0, len(X), BLOCK))
    share = gradient_share(blocks, y, table.astype(np.float64))
    predicted = (scaler.transform(X_eval) @ table[:-1] + table[-1]).argmax(axis=1)
    same = np.mean(predicted == features.read(kept).splits["test"].predicted[0])
    print(seconds, share, same)


def check_some_classes(path: Path) -> None:
    """Compare the weights of a fit to a few classes with those of an independent solver."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    from clipkit import features, probes

    with features.open_file(path) as file:
        train = file.splits["train"]
        rows = np.flatnonzero(train.labels < FEW_CLASSES)
        X, y = train.features.take(rows).read(), train.labels[rows]
    X = StandardScaler().fit_transform(X.astype(np.float64))
    (run,) = probes.sweep(X, y, X[:1], classifier="logreg", keep=True)
    exact = LogisticRegression(solver="newton-cg", tol=1e-8, max_iter=1000).fit(X, y).coef_
    error = np.linalg.norm(run.fitted.weights() - exact) / np.linalg.norm(exact)
    print(
        f"{FEW_CLASSES} classes: weights within {error:.3%} of newton-cg's in float64", flush=True
    )


def bench_imagenet(args: argparse.Namespace, scratch: Path) -> None:
    """Fit to all rows; then to as many as the peers can hold."""
    path, kept = scratch / "many.h5", scratch / "kept.h5"
    for rows in (args.rows or IMAGENET, args.peer_rows):
        write_embeddings(path, rows, args.classes)
        probe = run(sys.executable, __file__, "--fit", path, kept)
        count, inside = map(float, probe.stdout.split())
        size = f"{rows} x {DIM}, {args.classes} classes"
        report(f"probe logreg, {size}", probe.seconds, f"{probe.mebibytes:.0f} MiB")
        limit = count * pass_seconds(rows, args.classes)
        print(f"    {count:.0f} evaluations at {limit / inside:.0%} of the products' speed,")
        print(f"    {limit / probe.seconds:.0%} with all that is around them")
        report_gradient(path, kept)
    check_some_classes(path)
    for peer in ("scikit-learn", "torch"):
        result = run(sys.executable, __file__, "--peer", peer, path, kept)
        seconds, share, same = map(float, result.stdout.split())
        ratio = f"{seconds / probe.seconds:.2f} x"
        report(f"{peer} L-BFGS, the same rows", seconds, ratio, f"{result.mebibytes:.0f} MiB")
        print(f"    gradient: {share:.1e} of the first; {same:.2%} of the predictions are the same")


# commands at ImageNet's size

FORM = 1000  # classes, and prompts
N_ATTRIBUTES = 40
ATTRIBUTES = " ".join(f"--attribute a{number}" for number in range(N_ATTRIBUTES))
COMMANDS = (  # each reads what the ones before it wrote
    "concat half-0.h5 half-1.h5 -o all.h5",
    "split all.h5 --test 0.1 -o images.h5",
    "logits images.h5 prompts.h5 -o logits.h5",
    "entropy logits.h5 -o results/entropy.h5",
    "zeroshot logits.h5 -o results/zeroshot.h5",
    "calibrate logits.h5 -o results/calibrate.h5",
    "predict probe.h5 images.h5 -o results/predict.h5",
    "compare results/predict.h5 results/zeroshot.h5 --split train -o results/compare.h5",
    "variance images.h5 --split train --table table.csv -o results/variance.h5",
    f"attributes images.h5 --table table.csv {ATTRIBUTES} -o results/attributes.h5",
    "cluster images.h5 --split train -o results/cluster.h5",
    "report results -o report.html",
)


def write_form(folder: Path, name: str, rows: range) -> None:
    """Write embeddings of 1,000 classes, and add their rows to the table of attributes."""
    means = class_means()
    spectrum = 1 / np.sqrt(np.arange(1, DIM + 1))

    def draw(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return means[labels] + rng.standard_normal((len(labels), DIM), np.float32) * spectrum

    labels = np.random.default_rng(rows.start).permutation(rows) % FORM
    ids = [f"n{label:08d}/n{label:08d}_{row}.JPEG" for label, row in zip(labels, rows, strict=True)]
    names = [f"class {label}" for label in range(FORM)]
    write_splits(folder / name, {"all": drawn_split(labels, ids, rows.start, draw)}, names)
    with (folder / "table.csv").open("a") as table:
        has = np.random.default_rng(2).random((FORM, N_ATTRIBUTES)) < 0.5
        flip = np.random.default_rng([3, rows.start])
        for label, row_id in zip(labels, ids, strict=True):
            values = has[label] ^ (flip.random(N_ATTRIBUTES) < 0.1)
            table.write(",".join([row_id, *map(str, values.astype(int))]) + "\n")


def class_means() -> np.ndarray:
    rng = np.random.default_rng(0)
    means = 0.4 * rng.standard_normal((FORM, DIM)) / np.sqrt(np.arange(1, DIM + 1))
    return means + 0.05 * rng.standard_normal(DIM)


def write_inputs(folder: Path | str, rows: int | str) -> None:
    """Write two halves of the images, the prompts, a small probe and the table of attributes."""
    from factories import write_feature_file

    folder, rows = Path(folder), int(rows)
    (folder / "results").mkdir()
    names = [f"class {label}" for label in range(FORM)]
    prompts = {"features": class_means().astype(np.float32), "texts": names, "class_names": names}
    prompts["class_index"] = np.arange(FORM)
    write_feature_file(folder / "prompts.h5", "texts", datasets=prompts)
    write_form(folder, "few.h5", range(10**7, 10**7 + 5 * FORM))
    probe = ("--val", "0.2", "--classifier", "logreg", "--keep", "-o", folder / "probe.h5")
    run(*CLIPKIT, "probe", folder / "few.h5", *probe)
    header = ["id", *(f"a{number}" for number in range(N_ATTRIBUTES))]
    (folder / "table.csv").write_text(",".join(header) + "\n")
    write_form(folder, "half-0.h5", range(rows // 2))
    write_form(folder, "half-1.h5", range(rows // 2, rows))


def bench_commands(args: argparse.Namespace, scratch: Path) -> None:
    run(
        sys.executable, __file__, "--inputs", scratch, args.rows or 50_000
    )  # a child starts at our memory
    os.chdir(scratch)
    for line in COMMANDS:
        before = os.times()
        measured = run(*CLIPKIT, *line.split(), "--force")
        after = os.times()
        cpu = after.children_user + after.children_system
        cpu -= before.children_user + before.children_system
        memory = f"{measured.mebibytes:,.0f} MiB"
        report(line.split()[0], measured.seconds, f"{cpu:.1f} s of processor time", memory)


def bench_thesis(args: argparse.Namespace, scratch: Path) -> None:
    import thesis

    thesis.bench(args, scratch)


PARTS = {
    "textembed": bench_textembed,
    "embed": bench_embed,
    "logits": bench_logits,
    "nearest": bench_nearest,
    "probes": bench_probes,
    "imagenet": bench_imagenet,
    "commands": bench_commands,
    "thesis": bench_thesis,
}
LARGE = ("imagenet", "commands", "thesis")  # run by their names alone


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--images", type=int, default=1024, help="images to embed; the targets name 4096")
    add("--folder", type=Path, help="a folder of .jpg files; made up by default")
    add("--model", type=Path, help="a model's folder; a random ViT-B/32 by default")
    rows = (
        "rows of logits and nearest (200000), --only commands (50000), imagenet (1281167), "
        "thesis (60000)"
    )
    add("--rows", type=int, help=rows)
    add("--classes", type=int, default=1000, help="classes of --only imagenet")
    add("--peer-rows", type=int, default=50_000, help="rows of its peers, which need more memory")
    add("--probe-rows", type=int, default=5000, help="rows to fit on; the targets name 50000")
    busy = "processor time of one thread, for a machine that others use"
    add("--busy", action="store_true", help=busy)
    add("--record", action="store_true", help="write the costs of --only thesis to docs/costs.tsv")
    add("--only", choices=PARTS)
    add("--thesis", nargs=2, help=argparse.SUPPRESS)
    add("--plain", nargs=3, help=argparse.SUPPRESS)
    add("--plain-zeroshot", nargs=2, help=argparse.SUPPRESS)
    add("--peer", nargs=3, help=argparse.SUPPRESS)
    add("--fit", nargs=2, help=argparse.SUPPRESS)
    add("--inputs", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.thesis:
        return run_thesis_loop(*args.thesis)
    if args.plain:
        return run_plain_product(*args.plain)
    if args.plain_zeroshot:
        return run_plain_zeroshot(*args.plain_zeroshot)
    if args.peer:
        return run_peer(*args.peer)
    if args.fit:
        return run_fit(*args.fit)
    if args.inputs:
        return write_inputs(*args.inputs)
    if args.busy and BUSY not in os.environ:
        environment = os.environ | dict.fromkeys(THREADS, "1") | {BUSY: "1"}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    report_machine()
    with tempfile.TemporaryDirectory(prefix="clipkit-bench-") as scratch:
        for name, bench in PARTS.items():
            if args.only == name or (args.only is None and name not in LARGE):
                bench(args, Path(scratch))
    return None


if __name__ == "__main__":
    main()
