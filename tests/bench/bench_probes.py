"""Time a plain SVC beside `clipkit.probes`, on embeddings made up to be like CLIP's; ratios within one run.

python tests/bench/bench_probes.py [--rows 50000] [--eval-rows 10000] [--classes 100] [--dim 512] [--skip-svc]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from clipkit import clustering, probes


def like_clip(
    rows: int, classes: int, dim: int, spread: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Class means and noise of one decaying spectrum, away from the origin; the means' spread sets the accuracy."""
    spectrum = np.arange(1, dim + 1) ** -0.5 / np.sqrt(np.mean(1.0 / np.arange(1, dim + 1)))
    world = np.random.default_rng(0)
    means, offset = (
        spread * world.standard_normal((classes, dim)) * spectrum,
        world.standard_normal(dim),
    )
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(rows) % classes)
    features = offset + means[labels] + rng.standard_normal((rows, dim)) * spectrum
    return features.astype(np.float32), labels


def timed(what: str, work: Callable[[], Any]) -> tuple[Any, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{what:<44} {wall:9.1f} s {cpu:9.1f} s of CPU", flush=True)
    return result, wall


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("rows", 50_000), ("eval-rows", 10_000), ("classes", 100), ("dim", 512)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument(
        "--spread", type=float, default=0.17, help="of the class means, in units of the noise"
    )
    parser.add_argument("--skip-svc", action="store_true", help="leave the slow reference out")
    parser.add_argument("--only", choices=["svm", "logreg", "mlp", "knn", "sweep", "kmeans"])
    args = parser.parse_args()
    X, y = like_clip(args.rows, args.classes, args.dim, args.spread, seed=1)
    E, t = like_clip(args.eval_rows, args.classes, args.dim, args.spread, seed=2)

    def probe(classifier: str, taus: tuple[float, ...] = (1.0,)) -> None:
        (run, *_), seconds[classifier] = timed(
            f"probe {classifier}, {len(taus)} temperature(s)",
            lambda: probes.sweep(
                X,
                y,
                {"test": E},
                classifier=classifier,
                scales=[1 / tau for tau in taus],
                standardize=len(taus) == 1,
            ),
        )
        predicted[classifier] = run.predicted["test"]
        print(f"    accuracy {np.mean(predicted[classifier] == t):.4f}, converged {run.converged}")

    seconds: dict[str, float] = {}
    predicted: dict[str, np.ndarray] = {}
    for classifier in probes.CLASSIFIERS:
        if args.only in (None, classifier):
            probe(classifier)
    if "svm" in seconds and not args.skip_svc:
        scaler = StandardScaler().fit(X)
        svc, fit = timed(
            "SVC fit", lambda: SVC(kernel="linear", random_state=42).fit(scaler.transform(X), y)
        )
        reference, predict = timed("SVC predict", lambda: svc.predict(scaler.transform(E)))
        print(f"    accuracy {np.mean(reference == t):.4f}")
        same = np.mean(reference == predicted["svm"])
        print(
            f"    SVC / probe = {(fit + predict) / seconds['svm']:.1f}; same predictions: {same:.4%}"
        )
    if args.only in (None, "sweep"):
        probe("svm", (1.0, 0.5, 0.07, 0.05, 0.03, 0.02))
    if args.only in (None, "kmeans"):
        for algorithm in ("lloyd", "elkan"):
            plain = KMeans(n_clusters=args.classes, random_state=42, n_init=10, algorithm=algorithm)
            timed(f"KMeans, {algorithm}", lambda plain=plain: plain.fit(X))
        timed("clustering.kmeans", lambda: clustering.kmeans(X, args.classes))


if __name__ == "__main__":
    main()
