"""What a network's answers to labelled images tell: whether they are above chance, and which output is which class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import bdtrc

from quee.data.class_order import known_orders, positions

SURE = 0.5
"""Recall, averaged over the classes in question, above which answers tell which output is which class."""
MOST = 2 / 3
"""Share of the classes in question whose outputs the answers must tell."""
LEVEL = 0.001
"""Probability of an error that is accepted where answers are told from chance, or one order from another."""
SHUFFLES = 1999


def above_chance(answer: np.ndarray, truth: np.ndarray) -> bool:
    """Whether answers (n,) agree with labels (n,) more often than with shuffled labels: a one-sided permutation test.

    A network that gives one answer to all images is not above chance, however frequent that class is.
    """
    shuffled = np.random.default_rng(0).permuted(np.tile(truth, (SHUFFLES, 1)), axis=1)
    as_often = int(((shuffled == answer).sum(axis=1) >= (answer == truth).sum()).sum())
    return (1 + as_often) / (1 + SHUFFLES) <= LEVEL


def more_often(first: np.ndarray, second: np.ndarray, level: float) -> bool:
    """Whether `first` (n,) is right more often than `second` on the same images: McNemar's exact test, one-sided."""
    only, other = int((first & ~second).sum()), int((second & ~first).sum())
    return only > other and float(bdtrc(only - 1, only + other, 0.5)) <= level


def recall(answer: np.ndarray, truth: np.ndarray) -> float:
    """Share of right answers, averaged over classes, so that a constant answer scores low."""
    return float(np.mean([(answer[truth == label] == label).mean() for label in np.unique(truth)]))


def assignable(answer: np.ndarray, truth: np.ndarray, classes: int) -> float:
    """Share of answers (n,) that are right by the assignment of outputs to labels that is best on the other half of them.

    It is high for a network that tells the classes apart, in whatever order its outputs are.
    """
    mixed = np.random.default_rng(0).permutation(len(truth))
    halves = (mixed[::2], mixed[1::2])
    right = [
        (_assigned(answer[one], truth[one], classes)[answer[other]] == truth[other]).sum()
        for one, other in (halves, halves[::-1])
    ]
    return float(sum(right) / len(truth))


@dataclass(frozen=True)
class Order:
    """An order of a network's outputs other than the stated one, found in its answers."""

    meant: np.ndarray
    """(outputs,) the label that each output stands for."""
    classes: tuple[str, ...]
    """Names of the outputs in their order."""
    words: str
    """Description of a known order; empty for an order of its own."""
    stated: float
    """Recall by the stated order, on the images that judge."""
    found: float
    """Recall by this order on the same images."""
    thin: tuple[str, ...] = ()
    """In an order of its own: classes that fewer than `BACKED` right answers of this order stand for."""


BACKED = 3
"""Least number of right answers for each class of an order of its own."""


def find_order(answer: np.ndarray, truth: np.ndarray, classes: Sequence[str], stated: np.ndarray) -> Order | None:
    """The order of the outputs, if the answers show clearly that it is not the stated one.

    `answer` (n,) are outputs, `truth` (n,) labels, `stated` (outputs,) the label of each output. Known orders are judged
    on all images. An order of its own is the optimal assignment of outputs to labels on one half of the images, judged
    on the other half, because an assignment fits the images that it was found on even if the answers are random.
    """
    mixed = np.random.default_rng(0).permutation(len(truth))
    first, second = mixed[::2], mixed[1::2]
    own = _assigned(answer[first], truth[first], len(classes))
    best: Order | None = None
    for words, names in known_orders(classes).items():
        meant = positions(classes, names, "an order")
        found = recall(meant[answer], truth)
        if more_often(meant[answer] == truth, stated[answer] == truth, LEVEL) and (not best or found > best.found):
            best = Order(meant, names, words, recall(stated[answer], truth), found)
    rival = stated if best is None else best.meant
    right, rivals = own[answer[second]] == truth[second], rival[answer[second]] == truth[second]
    found = recall(own[answer[second]], truth[second])
    # A network that confuses two classes gains by an assignment, too; but one of the two has hardly an answer then.
    moved = np.intersect1d(own[own != rival], truth[second])
    told = [right[truth[second] == label].mean() >= SURE for label in moved]
    if not told or np.mean(told) < MOST:
        return best
    if not more_often(right, rivals, LEVEL):
        return best
    meant = _assigned(answer, truth, len(classes))
    backed = np.bincount(truth[meant[answer] == truth], minlength=len(classes))
    thin = tuple(classes[label] for label in np.flatnonzero(backed < BACKED).tolist())
    names = tuple(classes[label] for label in meant.tolist())
    return Order(meant, names, "", recall(stated[answer[second]], truth[second]), found, thin)


def _assigned(answer: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """The label (outputs,) that each output stands for, so that as many answers as possible are right."""
    table = np.zeros((classes, classes))
    np.add.at(table, (answer, truth), 1.0)
    return np.asarray(linear_sum_assignment(-table)[1])
