"""Time `clipkit.probes` beside a plain SVC, on random embeddings like CLIP's; compare in one run.

python tests/bench/bench_probes.py [--rows 50000] [--eval-rows 10000] [--classes 100] [--dim 512]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from clipkit import clustering, probes

TEMPERATURES = (1.0, 0.5, 0.07, 0.05, 0.03, 0.02)


def random_embeddings(
    rows: int, classes: int, dim: int, spread: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw class means and noise of one decaying spectrum, away from the origin.

    Parameters
    ----------
    spread : float
        Of the class means, in units of the noise: it sets the accuracy.
    seed : int
        Of labels and noise; the means are always the same.
    """
    powers = 1 / np.arange(1, dim + 1)
    spectrum = np.sqrt(powers / np.mean(powers))
    shared = np.random.default_rng(0)
    means = spread * shared.standard_normal((classes, dim)) * spectrum
    offset = shared.standard_normal(dim)
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


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("rows", 50_000), ("eval-rows", 10_000), ("classes", 100), ("dim", 512)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--spread", type=float, default=0.17, help="of the class means")
    parser.add_argument("--skip-svc", action="store_true", help="skip the slow reference")
    parser.add_argument("--only", choices=[*probes.CLASSIFIERS, "sweep", "kmeans"])
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    X, y = random_embeddings(args.rows, args.classes, args.dim, args.spread, seed=1)
    X_eval, y_eval = random_embeddings(args.eval_rows, args.classes, args.dim, args.spread, seed=2)
    wanted = [args.only] if args.only else [*probes.CLASSIFIERS, "sweep", "kmeans"]

    def probe(title: str, **options: Any) -> tuple[np.ndarray, float]:
        runs, seconds = timed(title, lambda: probes.sweep(X, y, X_eval, **options))
        predicted = runs[0].predicted
        print(f"    accuracy {np.mean(predicted == y_eval):.4f}, converged {runs[0].converged}")
        return predicted, seconds

    for classifier in probes.CLASSIFIERS:
        if classifier not in wanted:
            continue
        predicted, seconds = probe(f"probe {classifier}", classifier=classifier, standardize=True)
        if classifier == "svm" and not args.skip_svc:
            svc = make_pipeline(StandardScaler(), SVC(kernel="linear"))
            reference, svc_seconds = timed("SVC", lambda svc=svc: svc.fit(X, y).predict(X_eval))
            print(f"    accuracy {np.mean(reference == y_eval):.4f}")
            same = np.mean(reference == predicted)
            print(f"    SVC / probe = {svc_seconds / seconds:.1f}; same predictions: {same:.4%}")
    if "sweep" in wanted:
        scales = [1 / tau for tau in TEMPERATURES]
        probe(f"probe svm, {len(scales)} temperatures", scales=scales)
    if "kmeans" in wanted:
        for algorithm in ("lloyd", "elkan"):
            plain = KMeans(n_clusters=args.classes, random_state=42, n_init=10, algorithm=algorithm)
            timed(f"KMeans, {algorithm}", lambda plain=plain: plain.fit(X))
        timed("clustering.kmeans", lambda: clustering.kmeans(X, args.classes))


if __name__ == "__main__":
    main()
