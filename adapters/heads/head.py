"""The base of heads: features to logits, the loss it is trained with, its decision, its answer. Imports no jax.

A head is one file: a frozen dataclass of its settings, with its code, registered by its tag (`--set head.kind=TAG`).
It may lie in this folder or be a config script of a user. It states:

    column           how the label column is read, checked, named and encoded (`adapters.heads.columns`)
    metrics          names of `counts(...).compute()` that may decide in training; "loss" is counted too
    one_answer_per   "row"; "word", where the text is words and the labels stand at first sub-words; or "token"
    supports         what else can be made of a graft with this head (`Support`)
    output           name of what an exported function and a prediction hold: "probabilities", or "value"

    loss             the loss of each row, traced by jax (`host_loss`: the same by NumPy)
    probabilities    logits to probabilities of each label, or what stands in their place
    decide           probabilities to label numbers, or to the number that is the answer
    counts           the counts that the metrics are computed from (`adapters.scores`)

The rest has a default, which the method's docstring names. A head of one vector a row extends `RowHead`, which brings
pooling, pairs of texts and dropout. One that answers the most probable label begins with `Softmax`. Every head is
linear in its features, one logit for each name of its column: a probe is fitted to it as it is, and a bank holds it.

A whole head, a count for each row (Poisson regression):

    from dataclasses import dataclass

    import numpy as np

    from adapters.labels.cells import as_number
    from adapters.heads.columns import Number
    from adapters.heads.head import RowHead
    from backbone.errors import InputError
    from backbone.lazy import jnp


    class Counts(Number):
        '''A number that is no less than zero.'''

        reading = "count"

        def parse(self, cell, data, where):
            if as_number(cell, data.label, where) < 0:
                raise InputError(f"{where}: {data.label}: {cell!r} is no count; it must be at least 0")
            return super().parse(cell, data, where)


    @dataclass(frozen=True)
    class Count(RowHead, tag="count"):
        '''A count per row: its mean is exp(dropout(pool(hidden)) W + b), Poisson log-likelihood.'''

        metrics = ("spearman", "pearson")
        column = Counts()
        output = "value"

        def loss(self, logits, labels):  # without the term of the labels alone
            return jnp.exp(logits[:, 0]) - labels * logits[:, 0]

        def encode(self, labels, names, where, layout=None):
            return super().encode(labels, names, where, layout).astype(np.float32)

        def probabilities(self, logits):
            return logits

        def decide(self, probabilities):
            return np.exp(probabilities[:, 0])

        def counts(self, labels, probabilities, decided, loss, names):
            from adapters.scores import Numbers

            return Numbers(labels, decided, float(loss.sum()))

Shape letters: `B` or `N` rows, `T` tokens, `F` features, `C` names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias

import numpy as np

from adapters.heads.columns import LabelColumn, Labels, Layout
from adapters.heads.pooling import Pair, Pooling
from adapters.methods.method import dropout, select
from adapters.predictions import Prediction, labelled
from backbone.errors import InputError
from backbone.lazy import jnp, scipy
from backbone.variants.registered import Registered, variants

if TYPE_CHECKING:
    from jax import Array

    from adapters.scores import MetricCounts
    from backbone.trees import Params

UNLIKELY = -1e9  # logit of a label that is never the answer

Support: TypeAlias = Literal[
    "audit",  # `check --audit`: each row has one label that a probe can doubt
    "bank",  # serving in slots beside other grafts: what answers is made of logits on the host
    "early_exits",  # answers from lower blocks: `confidence` and `mistakes` are those of its answers
    "export",  # a folder that stands alone: its runner knows `output` and `threshold_of_labels`
    "out_of_scope",  # the distance to classes of rows: the column has `shares`
    "pairs",  # two texts a row, read as `pair` says
    "peft",  # exchange: its logits are those of a model of transformers, or of a layer beside PEFT's folder
    "retrain",  # the gate compares labels: the column has `majority`
]


NEEDS = ("metrics", "column", "loss", "probabilities", "decide", "counts")  # parts that every head defines


class Head(Registered, by="kind", folder="adapters.heads", needs=NEEDS):
    """The base of all heads. A head is hashable and holds no weights; a manifest stores it by its tag."""

    kind: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    column: ClassVar[LabelColumn]
    one_answer_per: ClassVar[Literal["row", "word", "token"]] = "row"
    supports: ClassVar[frozenset[Support]] = frozenset()
    output: ClassVar[Literal["probabilities", "value"]] = "probabilities"

    @classmethod
    def misses(cls) -> Iterator[str]:
        def defined(name: str) -> type:
            return next(base for base in cls.__mro__ if name in vars(base))

        former = defined("host_loss")
        if former is not Head and issubclass(defined("loss"), former) and defined("loss") is not former:
            yield f"host_loss is missing: that of {former.__name__} computes the loss of {former.__name__}"

    @property
    def pooling(self) -> str:
        """Returns how states become features; "tokens" leaves each token its own."""
        return "tokens"

    @property
    def pair(self) -> Pair:
        """Returns how the two texts of a row are read; "none" for a row of one text."""
        return "none"

    @property
    def dropout(self) -> float:
        """Returns the probability of dropout on the features."""
        return 0.0

    @property
    def threshold_of_labels(self) -> float | None:
        """Returns the probability from which a label is given; None where the most probable one is."""
        return None

    @classmethod
    def example(cls) -> Self:
        """Returns a head for tests; the default settings."""
        return cls()

    # Training

    def init(self, width: int, names: int) -> Params:
        """Returns kernel [F,C] and bias [C] of zeros, float32."""
        return {"kernel": jnp.zeros((width, names)), "bias": jnp.zeros((names,))}

    def logits(self, params: Params, features: Array, slots: Array | None, rng: Array | None) -> Array:
        """Returns logits float32 [B,C] of features [B,F], or [B,T,C] of [B,T,F]; `slots` int32 [B] of a bank."""
        features = dropout(features.astype(jnp.float32), self.dropout, rng)
        kernel, bias = select(params["kernel"], slots), select(params["bias"], slots)
        if slots is None:
            return features @ kernel + bias
        return features @ kernel + bias if features.ndim == 3 else (features[:, None, :] @ kernel + bias)[:, 0]

    def loss(self, logits: Array | np.ndarray, labels: Array | np.ndarray) -> Array:
        """Returns the loss of each row, float32 [B]."""
        raise NotImplementedError

    def host_loss(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Returns `loss` by NumPy; the default asks jax, which compiles anew for each number of rows."""
        return np.asarray(self.loss(logits, labels))

    # Labels

    def with_statistics_of(self, labels: Labels | None) -> Self:
        """Returns the head with the settings that the labels of the train rows decide; the default has none.

        `labels` is None where there are no train rows. Raises InputError where they are needed.
        """
        return self

    def encode(
        self, labels: Labels, names: Sequence[str], where: Sequence[str], layout: Layout | None = None
    ) -> np.ndarray:
        """Returns labels as `loss` takes them; the default is the column's encoding."""
        return self.column.encode(labels, names, where, layout)

    def places(self, labels: np.ndarray) -> np.ndarray | None:
        """Returns where encoded labels stand, bool [N,T]; None where they belong to rows."""
        return None

    def classes(self, labels: np.ndarray) -> np.ndarray | None:
        """Returns the class of each row, int [N], where the most probable one is the answer; else None."""
        return None

    def vector_head(self) -> Head:
        """Returns the head that a probe of single vectors is fitted by; the default is the head itself."""
        return self

    # Answers

    def probabilities(self, logits: Any) -> Any:
        """Returns probabilities float32 [B,C] of each label, by the library of the logits: NumPy's stay on the host."""
        raise NotImplementedError

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """Returns the answers: label numbers int [B], bool [B,C], or int [B,T] of tags; or numbers float [B]."""
        raise NotImplementedError

    def counts(
        self, labels: np.ndarray, probabilities: np.ndarray, decided: np.ndarray, loss: np.ndarray, names: Sequence[str]
    ) -> MetricCounts:
        """Returns the counts of N rows from their encoded labels, what this head makes of them, and losses [N]."""
        raise NotImplementedError

    def confidence(self, logits: np.ndarray) -> np.ndarray:
        """Returns how sure the answers to logits [N,C] are, float [N] in 0..1; the default is the largest softmax."""
        shifted = logits.astype(float) - logits.max(axis=1, keepdims=True)
        return np.asarray(1 / np.exp(shifted).sum(axis=1))

    def mistakes(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Returns the number of wrong decisions in each row's answer, int [N], from encoded labels of rows."""
        wrong = self.decide(np.asarray(self.probabilities(logits))) != labels
        return wrong.reshape(len(wrong), -1).sum(axis=1)

    def sure_logits(self, answer: np.ndarray) -> np.ndarray:
        """Returns logits float32 [C] whose answer is the labels `answer` bool [C], for sure."""
        return np.where(answer, 0.0, UNLIKELY).astype(np.float32)

    def chosen(self, decided: np.ndarray) -> list[list[int]]:
        """Returns the label numbers of each row's answer."""
        return [[int(label)] for label in decided]

    def answers(
        self,
        names: tuple[str, ...],
        logits: np.ndarray,
        *,
        scores: np.ndarray | None = None,
        abstain: bool = False,
        texts: Sequence[Any] = (),
        places: Sequence[np.ndarray] = (),
    ) -> list[Prediction]:
        """Returns the answer for each row of logits float32 [N,C], or [N,T,C] of tokens.

        `scores` float [N] are out-of-scope scores; with `abstain` a row whose score lies above 1 gets no label.
        `texts` and `places` are the rows' texts and first sub-words, for answers by word.
        """
        probabilities = self.probabilities(logits)
        if self.output == "value":
            return [Prediction((), {}, value=float(number)) for number in self.decide(probabilities)]
        return labelled(names, probabilities, self.chosen(self.decide(probabilities)), scores, abstain=abstain)

    def facts(self, prediction: Prediction, top: int) -> dict[str, Any]:
        """Returns a prediction as JSON values, with the `top` most probable labels."""
        if self.output == "value":
            return {"value": prediction.value}
        score = {} if prediction.out_of_scope is None else {"out_of_scope": prediction.out_of_scope}
        probabilities = dict(list(prediction.probabilities.items())[:top])
        return {"labels": list(prediction.labels), "probabilities": probabilities, **score}

    def in_own_units(self, kernel: np.ndarray, bias: np.ndarray) -> tuple[Head, np.ndarray, np.ndarray]:
        """Returns head, kernel float32 [F,C] and bias [C] whose logits are in the target's own units.

        A head that is trained on scaled targets overrides it; for others they are the same.
        """
        return self, kernel, bias

    def exported(self, logits: Array) -> Array:
        """Returns the output `output` of an exported function: probabilities [B,C], or values [B]."""
        result: Array = self.probabilities(logits)
        return result


class Softmax:
    """The probabilities of a softmax, of which the largest decides; stands before `Head` or `RowHead` among bases."""

    def probabilities(self, logits: Any) -> Any:
        return softmax(logits)

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        return probabilities.argmax(axis=-1)


@dataclass(frozen=True)
class RowHead(Head):
    """A head of one vector a row."""

    supports: ClassVar[frozenset[Support]] = frozenset({"pairs"})
    pooling: Pooling = "mean"  # mean over tokens, first token, the backbone's own pooler, or a learned query
    pair: Pair = "none"  # how data.text and data.text_pair are read
    dropout: float = 0.0  # probability on the pooled features, in training only

    def __post_init__(self) -> None:
        check_dropout(self.dropout)


def check_dropout(dropout: float) -> None:
    """Raises InputError unless `dropout` is a probability below 1."""
    if not 0 <= dropout < 1:
        raise InputError(f"dropout: must be at least 0 and below 1, got {dropout}")


def kinds_for(support: Support, last: str = " or ") -> str:
    """Returns the kinds of the heads that support something, for messages: `classification or multi_label`."""
    kinds = [kind for kind, head in variants(Head).items() if support in head.supports]
    return last.join([", ".join(kinds[:-1]), kinds[-1]]) if len(kinds) > 1 else "".join(kinds)


def softmax(logits: Any) -> Any:
    """Returns probabilities over the last axis, by the library of the logits."""
    of = logits.__array_namespace__()
    raised = of.exp(logits - of.max(logits, axis=-1, keepdims=True))
    return raised / of.sum(raised, axis=-1, keepdims=True)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the cross-entropy of logits [...,C] and label numbers int [...], by NumPy."""
    chosen = np.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return np.asarray(scipy.special.logsumexp(logits, axis=-1) - chosen)
