"""What an import left out, chose or merged: the closing lines of `quee data add`."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from quee.data.walk import SHOWN, Skipped, some

EXAMPLES = 5
"""Number of duplicate pairs that are named."""


def counted(count: int, what: str = "image") -> str:
    """A number with its noun in singular or plural."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


@dataclass(frozen=True)
class LeftOut:
    """A part of the source that is not in the data set, such as `6 .tif` or `folder test/`, and its number of files or images."""

    what: str
    count: int
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.what} ({self.hint})" if self.hint else self.what


@dataclass
class Duplicates:
    """Images whose files are equal byte for byte."""

    across: int = 0
    """Evaluation images that are also in the training set."""
    training: int = 0
    """Copies within the training set, without the first of each."""
    evaluation: int = 0
    """Copies within the evaluation set, without the first of each."""
    conflicting: int = 0
    """Images that are in more than one class."""
    examples: list[str] = field(default_factory=list)
    """Pairs of equal images, the most harmful kinds first."""

    def __str__(self) -> str:
        counts = (
            (self.across, "evaluation image(s) that are in the training set too"),
            (self.training, "copy(ies) within the training set"),
            (self.evaluation, "copy(ies) within the evaluation set"),
            (self.conflicting, "image(s) under more than one class"),
        )
        return ", ".join(f"{n:,} {_number(text, n)}" for n, text in counts if n)


@dataclass
class Report:
    """The facts of one import. `lines()` is what `quee data add` prints, `facts()` the same for programs."""

    skipped: Skipped = field(default_factory=Skipped)
    """Files of the source that were not taken, by kind."""
    named: list[LeftOut] = field(default_factory=list)
    """Other parts of the source that are not in the data set, by name."""
    notes: list[str] = field(default_factory=list)
    """What was chosen, merged or translated, one line each."""
    bad: list[str] = field(default_factory=list)
    """Images left out because they cannot be used (`--skip-bad`), each with the reason."""
    source: str = ""
    """What the images are from, where that has a name that lasts: a package, or what they are drawn from, with its digest."""
    training: int = 0
    """Images of the training set."""
    evaluation: int = 0
    """Images of the evaluation set."""
    classes: tuple[str, ...] = ()
    without_image: list[str] = field(default_factory=list)
    """Classes without any image."""
    without_training_image: list[str] = field(default_factory=list)
    """Classes that have only evaluation images."""
    without_evaluation_image: list[str] = field(default_factory=list)
    """Classes that have only training images, where there is an evaluation set."""
    duplicates: Duplicates = field(default_factory=Duplicates)

    def leave(self, what: str, count: int, hint: str = "") -> None:
        self.named.append(LeftOut(what, count, hint))

    @property
    def left_out(self) -> list[LeftOut]:
        """Every part of the source that is not in the data set: kinds of files, named parts, hidden files."""
        kinds, others = ([LeftOut(*pair) for pair in found] for found in (self.skipped.kinds(), self.skipped.others()))
        return [*kinds, *self.named, *others]

    def count(self, labels: np.ndarray, training: int, classes: tuple[str, ...]) -> None:
        """Count images by class; `labels` (n,) has those of the training set first."""
        self.classes, self.training, self.evaluation = classes, training, len(labels) - training
        first, second = (np.bincount(part, minlength=len(classes)) for part in np.split(labels, [training]))
        for name, trained, evaluated in zip(classes, first, second, strict=True):
            if not trained and not evaluated:
                self.without_image.append(name)
            elif not trained:
                self.without_training_image.append(name)
            elif not evaluated and self.evaluation:
                self.without_evaluation_image.append(name)

    def lines(self) -> list[str]:
        first = [f"left out: {some(map(str, self.left_out))}"] if self.left_out else []
        missing = (("", self.without_image), ("training ", self.without_training_image))
        for kind, names in (*missing, ("evaluation ", self.without_evaluation_image)):
            if names:
                first.append(f"no {kind}image of {'class' if len(names) == 1 else 'classes'} {some(names)}")
        found = ["; ".join(first)] if first else []
        found += [f"source: {self.source}"] if self.source else []
        found += self.notes
        if text := str(self.duplicates):
            found.append(f"duplicates, byte for byte: {text}: {some(self.duplicates.examples, EXAMPLES)}")
        if self.bad:
            found.append(f"skipped {len(self.bad):,} {_number('image(s) that cannot be used', len(self.bad))}:")
            found += [f"  {line}" for line in self.bad[:SHOWN]]
            found += [f"  and {len(self.bad) - SHOWN:,} more"] if len(self.bad) > SHOWN else []
        return found

    def facts(self) -> dict[str, Any]:
        """All facts in types that JSON has."""
        own = asdict(replace(self, skipped=Skipped(), named=[]))
        del own["skipped"], own["named"]
        return {"left_out": [asdict(item) for item in self.left_out], **own}


def _number(text: str, count: int) -> str:
    """A text in singular or plural: `image(s)`, `copy(ies)`, `that are`."""
    if count == 1:
        return text.replace("(s)", "").replace("(ies)", "").replace("that are", "that is")
    return text.replace("(s)", "s").replace("y(ies)", "ies")


def find_duplicates(digests: np.ndarray, labels: np.ndarray, training: int, names: Callable[[int], str]) -> Duplicates:
    """Equal rows of `digests` (n, 16) uint8, the training set's first; `names(i)` is the name of image i."""
    rows = np.ascontiguousarray(digests).view("V16").reshape(-1)
    _, first, content = np.unique(rows, return_index=True, return_inverse=True)
    content = content.reshape(-1)
    trained, evaluated = content[:training], content[training:]
    across = training + np.flatnonzero(np.isin(evaluated, trained))
    pairs = np.unique(np.stack([content, labels]), axis=1)[0]
    conflicting = np.unique(pairs[1:][pairs[1:] == pairs[:-1]])
    copies = np.setdiff1d(np.arange(len(rows)), first)
    other = copies[labels[copies] != labels[first[content[copies]]]]
    chosen = dict.fromkeys(int(i) for kind in (across, other, copies) for i in kind[:EXAMPLES])
    return Duplicates(
        across=len(across),
        training=len(trained) - len(np.unique(trained)),
        evaluation=len(evaluated) - len(np.unique(evaluated)),
        conflicting=len(conflicting),
        examples=[f"{names(i)} = {names(int(first[content[i]]))}" for i in chosen],
    )
