"""Chapter 4.3: sets of prompts of different sizes, with their controls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from clipkit.analysis import similarity
from clipkit.report.blocks import Block, Heading, Rows, Sourced
from clipkit.report.differences import paired_differences
from clipkit.report.experiments import Comparison, entropy_labels
from clipkit.report.folder import ResultsFolder
from clipkit.report.thesis import SEED, Experiment


def vocabularies(comparison: Comparison) -> list[Block]:
    """Compare sets of prompts: their sizes, spectra and few-shot accuracies."""
    results = comparison.results
    if max(results.prompt_set_sizes(), default=0) <= 32:  # chapter 3 alone
        return []
    sizes = [k for k in results.prompt_set_sizes() if k >= 32]
    labels = {Experiment(f"generic{k}.logits.svm"): f"4.3 SVM, {k} prompts, τ 1 (%)" for k in sizes}
    labels |= entropy_labels("4.3", sizes)
    spectra, fewshot = Rows(), Rows()
    for suffix, folder in comparison.with_suffixes().items():
        spectra.add_all(_spectra(folder), suffix)
        fewshot.add_all(_fewshot(folder), suffix)
    sets = [f"generic{k}" for k in sizes]
    absent = [name for name in sets if results.prompt_features(name) is None]
    spectrum_header = [
        "prompts",
        "singular values",
        "effective rank",
        "of random directions",
        "SVM, τ 1 (%)",
        "random: mean",
        "random: lowest–highest",
    ]
    fewshot_header = [
        "few-shot",
        "as they are (%)",
        "whitened (%)",
        "random (%)",
        "random − as they are",
        "random − whitened",
    ]
    return [
        Heading(3, "4.3 Prompt vocabularies"),
        *comparison.compare(labels),
        *paired_differences(
            results,
            "generic32.logits.svm",
            "32 prompts",
            {f"generic{k}.logits.svm": f"{k} prompts" for k in sizes if k > 32},
        ),
        *_slip_of_the_thesis(comparison),
        "**Control: spectrum.** The cosines of K prompts are a linear map of the embedding, of "
        "rank K at most. The next table has the largest and the smallest singular value of each "
        "set's normalised directions, and the effective rank, which sums up the shape of the "
        "spectrum. Random directions of the same number carry no meaning.",
        *spectra.tables(spectrum_header),
        *_explain_fewshot(results),
        *fewshot.tables(fewshot_header),
        *_salad_sentence(results),
        *comparison.pictures({"spectrum.png": "Singular values of the prompt sets"}, absent),
    ]


def _slip_of_the_thesis(comparison: Comparison) -> list[str]:
    figure = comparison.figures.get(Experiment("generic205.logits.entropy", "mean_entropy"), 0.0)
    highest = np.log(205)
    if figure <= highest:
        return []
    return [
        f"The thesis's entropy of 205 prompts, {figure:.4f}, is a slip: no softmax over 205 "
        f"prompts has more than ln 205 = {highest:.4f}."
    ]


def _spectra(results: ResultsFolder) -> Iterator[Sourced]:
    """Yield the spectrum of each prompt set, and the accuracy of an SVM on it at τ 1."""
    for k in results.prompt_set_sizes():
        source = f"generic{k}.logits.svm"
        accuracy = results.measure(Experiment(source))
        random_values = results.values_by_seed(f"random{k}-{{}}.svm", "acc1")
        prompts = results.prompt_features(f"generic{k}")
        if accuracy is None or not random_values or prompts is None:
            continue
        values = similarity.singular_values(prompts)
        random = similarity.random_directions(len(prompts), prompts.shape[1], SEED)
        by_chance = similarity.singular_values(random)
        percent = _percent(random_values, random_values.keys())
        cells = [
            f"{k}",
            f"{values[0]:.3g} … {values[-1]:.2g}",
            f"{similarity.effective_rank(values):.1f}",
            f"{similarity.effective_rank(by_chance):.1f}",
            f"{100 * accuracy.value:.2f}",
            f"{percent.mean():.2f}",
            f"{percent.min():.2f}–{percent.max():.2f}",
        ]
        yield source, cells


def _explain_fewshot(results: ResultsFolder) -> list[str]:
    for k in results.prompt_set_sizes():
        name = f"generic{k}.logits.fewshot-{SEED}"
        if results.runs(name):
            splits = results.read(name).splits
            validated = sum(len(split) for name, split in splits.items() if name != "test")
            return [
                "The last table has logistic regression on 20 images per class, with τ chosen on "
                f"{validated:,} further labelled images. *Whitened* features are the cosines with "
                "an orthonormal basis of the prompts' span: the same information, without the "
                "prompts' spectrum. Every number is a mean over the seeds. A seed draws the images "
                "and the random directions, and the differences, in points, are taken seed by "
                "seed. Brackets hold the lowest and the highest. K random directions span the "
                "whole embedding once K reaches its width. A *salad* has the words of all prompts "
                "in a random order."
            ]
    return []


def _fewshot(results: ResultsFolder) -> Iterator[Sourced]:
    """Yield few-shot accuracies of prompts, whitened and random, and their paired differences.

    A second row has the prompts with their words in a random order, one order per seed.
    """
    for k in results.prompt_set_sizes():
        name = f"generic{k}.logits.fewshot-{{}}"
        by_seed = results.values_by_seed(name, "acc1")
        whitened_by_seed = results.values_by_seed(f"generic{k}.whitened.fewshot-{{}}", "acc1")
        random_by_seed = results.values_by_seed(f"random{k}-{{}}.fewshot", "acc1")
        seeds = sorted(by_seed.keys() & whitened_by_seed.keys() & random_by_seed.keys())
        if seeds:
            prompts = _percent(by_seed, seeds)
            whitened = _percent(whitened_by_seed, seeds)
            random = _percent(random_by_seed, seeds)
            means = [f"{values.mean():.2f}" for values in (prompts, whitened, random)]
            differences = [_mean_and_range(random - prompts), _mean_and_range(random - whitened)]
            yield name.format(seeds[0]), [f"{k} prompts", *means, *differences]
        salads_by_seed = _salad_accuracies(results, k)
        seeds = sorted(salads_by_seed.keys() & random_by_seed.keys())
        if seeds:
            salads, random = _percent(salads_by_seed, seeds), _percent(random_by_seed, seeds)
            means = [f"{salads.mean():.2f}", "", f"{random.mean():.2f}"]
            cells = [f"{k} salads", *means, _mean_and_range(random - salads), ""]
            yield f"salad{k}-{seeds[0]}.logits.fewshot-{seeds[0]}", cells


def _salad_accuracies(results: ResultsFolder, k: int) -> dict[int, float]:
    """Return the accuracy of each seed's salad."""
    accuracy = {}
    for seed in results.values_by_seed(f"generic{k}.logits.fewshot-{{}}", "acc1"):
        for run in results.runs(f"salad{k}-{seed}.logits.fewshot-{seed}")[:1]:
            accuracy[seed] = float(run["acc1"])
    return accuracy


def _salad_sentence(results: ResultsFolder) -> list[str]:
    """Return what the sentences of the 32 prompts add to their words."""
    prompts = results.values_by_seed("generic32.logits.fewshot-{}", "acc1")
    salads = _salad_accuracies(results, 32)
    if not salads:
        return []
    differences = 100 * np.array([prompts[seed] - salads[seed] for seed in salads])
    points = _mean_and_range(differences)
    return [f"The 32 prompts minus their salads, seed by seed: {points} points."]


def _percent(by_seed: Mapping[int, float], seeds: Iterable[int]) -> NDArray[np.float64]:
    return 100 * np.array([by_seed[seed] for seed in seeds])


def _mean_and_range(values: NDArray[np.float64]) -> str:
    return f"{values.mean():+.2f} ({values.min():+.2f} to {values.max():+.2f})"
