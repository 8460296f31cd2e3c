"""Link functions: what turns logits into probabilities, with their entropy and their likelihood.

To add one, write its class here and name it in `LINKS`. The command line names the links, so numpy
is imported where it is used.

Methods take cosines and an absolute temperature tau: the logits are cosine / tau, as in Radford et
al. 2021, where the learned tau of ViT-B/32 is 0.01.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from clipkit.base.errors import UsageError, unknown

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from clipkit.base.matrices import Floats, Int64
    from clipkit.features.history import History

DEFAULT = "softmax"


class Link(ABC):
    """A link function.

    Attributes
    ----------
    name : str
        In `--link` and in the history of a result.
    description, plural : str
        What help and notes call it: "a sigmoid for each prompt", "sigmoids".
    is_distribution : bool
        Whether the probabilities of a row sum to 1. If so, a number that is added to all cosines of
        a row must not change them.
    has_likelihood : bool
        Whether a temperature can be fitted by maximum likelihood, see `nll`.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    plural: ClassVar[str]
    is_distribution: ClassVar[bool] = True
    has_likelihood: ClassVar[bool] = False

    @classmethod
    def is_own(cls, history: History) -> bool:  # noqa: ARG003
        """Return whether a history says that the model was trained with this link."""
        return False

    @classmethod
    def from_history(cls, history: History, display_name: str) -> Link:  # noqa: ARG003
        """Return the link with what the model learned for it.

        Raises
        ------
        UsageError
            If the link needs what the model did not learn.
        """
        return cls()

    @property
    def setting(self) -> dict[str, str]:
        """The name by `link`, as histories and rows state it: nothing for the default."""
        return {} if self.name == DEFAULT else {"link": self.name}

    @abstractmethod
    def probabilities(self, cosines: ArrayLike, temperature: float) -> Floats:
        """Return probabilities (N, K)."""

    def prepare(self, cosines: ArrayLike) -> Floats:
        """Compute what `entropy_and_confidence` needs (N, K) at every temperature."""
        import numpy as np

        return np.asarray(cosines, dtype=np.float64)

    @abstractmethod
    def entropy_and_confidence(self, prepared: Floats, temperature: float) -> tuple[Floats, Floats]:
        """Return the entropy in nats (N) and the largest probability (N) of prepared cosines."""

    def max_entropy(self, n_prompts: int) -> float:
        """Return the entropy of equal probabilities, ln K."""
        import numpy as np

        return float(np.log(n_prompts))

    def nll(self, below: Floats, labels: Int64, beta: float) -> tuple[float, float, float]:
        """Return the negative log-likelihood at the temperature 1 / beta, and its derivatives.

        All three are sums over rows. `below` (N, C) are scores of classes minus the highest of each
        row. The likelihood must be convex in beta.
        """
        raise NotImplementedError

    def score(
        self, below: Floats, labels: Int64, temperature: float
    ) -> tuple[Floats, float, float]:
        """Return the confidence (N), and the sums over rows of the NLL and the Brier score."""
        import numpy as np

        p = self.probabilities(below, temperature)
        p_true = p[np.arange(len(labels)), labels]
        with np.errstate(divide="ignore"):
            nll = -float(np.log(p_true).sum())
        brier = float(((p**2).sum(axis=1) - 2 * p_true + 1).sum())
        return p.max(axis=1), nll, brier


class Softmax(Link):
    """One distribution over all prompts, exp(z) / sum(exp(z))."""

    name = "softmax"
    description = "a softmax over the prompts"
    plural = "softmaxes"
    has_likelihood = True

    def probabilities(self, cosines: ArrayLike, temperature: float) -> Floats:
        """Return probabilities (N, K) over the last axis of cosine / temperature."""
        import numpy as np

        z = np.asarray(cosines, dtype=np.float64) / temperature
        z -= z.max(axis=-1, keepdims=True)
        z -= np.log(np.exp(z).sum(axis=-1, keepdims=True))
        return np.exp(z)

    def prepare(self, cosines: ArrayLike) -> Floats:
        """Shift each row so that its highest cosine is 0."""
        return below_highest(cosines)

    def entropy_and_confidence(self, prepared: Floats, temperature: float) -> tuple[Floats, Floats]:
        """Return the entropy (N), at most ln K, and the largest probability (N), at least 1/K."""
        import numpy as np

        z = prepared / temperature
        weights = np.exp(z)  # the most probable prompt has weight 1
        sums = weights.sum(axis=-1)
        # H = log Z - E[z]
        expected = np.einsum("...j,...j->...", weights, z) / sums
        return np.log(sums) - expected, 1 / sums

    def nll(self, below: Floats, labels: Int64, beta: float) -> tuple[float, float, float]:
        """Return the NLL and its derivatives by beta.

        The first derivative is E[score] - score of the label, the second one the variance of the
        score, for a class that is drawn from the softmax.
        """
        import numpy as np

        true = below[np.arange(len(labels)), labels]
        weights = below * beta
        np.exp(weights, out=weights)
        sums = weights.sum(axis=1)
        nll = float((np.log(sums) - beta * true).sum())
        weights *= below
        means = weights.sum(axis=1) / sums
        squares = np.einsum("ij,ij->i", weights, below) / sums
        return nll, float((means - true).sum()), float((squares - means**2).sum())

    def score(
        self, below: Floats, labels: Int64, temperature: float
    ) -> tuple[Floats, float, float]:
        """Score without the probabilities of all classes."""
        import numpy as np

        z = below / temperature
        z_true = z[np.arange(len(labels)), labels]
        weights = np.exp(z, out=z)  # the most probable class has weight 1
        sums = weights.sum(axis=1)
        nll = float((np.log(sums) - z_true).sum())
        # sum over classes of (p - [class is the label])^2
        squares = np.einsum("ij,ij->i", weights, weights) / sums**2
        brier = float((squares - 2 * np.exp(z_true) / sums + 1).sum())
        return 1 / sums, nll, brier


class Sigmoid(Link):
    """A probability of each prompt, sigmoid(z + bias).

    SigLIP (Zhai et al. 2023) was trained without a softmax. It decides for each prompt separately
    whether the prompt belongs to the image. The model learned the bias too.
    """

    name = "sigmoid"
    description = "a sigmoid for each prompt"
    plural = "sigmoids"
    is_distribution = False

    def __init__(self, bias: float):
        self.bias = bias

    @classmethod
    def is_own(cls, history: History) -> bool:
        """Return whether the model learned a bias.

        It is learned for prompts, so there is none for random or whitened directions.
        """
        return not history.has_directions and history.model.get("logit_bias") is not None

    @classmethod
    def from_history(cls, history: History, display_name: str) -> Link:
        """Return the sigmoid with the bias that the model learned."""
        if not cls.is_own(history):
            raise UsageError(
                f"{display_name}: expected a model with a logit_bias for the link sigmoid, "
                "got none",
                "use --link softmax, or embed with a SigLIP model",
            )
        return cls(float(history.model["logit_bias"]))

    def probabilities(self, cosines: ArrayLike, temperature: float) -> Floats:
        """Return the probability (N, K) of each prompt."""
        import numpy as np

        return self._sigmoid(np.asarray(cosines, dtype=np.float64) / temperature + self.bias)

    def entropy_and_confidence(self, prepared: Floats, temperature: float) -> tuple[Floats, Floats]:
        """Return the mean binary entropy over the prompts (N) and the largest probability (N)."""
        import numpy as np

        z = prepared / temperature + self.bias
        p = self._sigmoid(z)
        # H = log(1 + e^z) - z p
        entropies = np.logaddexp(0, z) - z * p
        return entropies.mean(axis=-1), p.max(axis=-1)

    def max_entropy(self, n_prompts: int) -> float:
        """Return ln 2, whatever the number of prompts."""
        return super().max_entropy(2)

    @staticmethod
    def _sigmoid(z: Floats) -> Floats:
        import numpy as np

        return np.asarray(np.exp(-np.logaddexp(0, -z)))  # no overflow at either end


LINKS: dict[str, type[Link]] = {link.name: link for link in (Softmax, Sigmoid)}
SOFTMAX = Softmax()


def below_highest(cosines: ArrayLike) -> Floats:
    """Shift each row so that its highest cosine is 0."""
    import numpy as np

    rows = np.asarray(cosines)
    return np.asarray(np.subtract(rows, rows.max(axis=-1, keepdims=True), dtype=np.float64))


def find(name: str, history: History, display_name: str) -> Link:
    """Return a link by its name, with what the model of a history learned for it.

    An error calls the file of the history by its `display_name`.
    """
    if name not in LINKS:
        raise unknown("link", name, LINKS)
    return LINKS[name].from_history(history, display_name)


def own_link(history: History) -> Link:
    """Return the link that the model of a history was trained with, by default the softmax."""
    for link in LINKS.values():
        if link.is_own(history):
            return link.from_history(history, link.name)
    return SOFTMAX


def distribution(history: History) -> Link:
    """Return the model's own link if its probabilities sum to 1 over the prompts, else softmax."""
    own = own_link(history)
    return own if own.is_distribution else SOFTMAX
