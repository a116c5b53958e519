"""The report's sections on inputs: which images take which path, and what the computation is spent on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from quee.measure import ACCURACY, Measure
from quee.report.markup import folded, table
from quee.report.palette import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION
from quee.report.sentence import share
from quee.work.counts import counted
from quee.work.percentages import percent

TINTS = (SKY, BLUE, ORANGE, GREEN, VERMILLION, PURPLE)
"""Colours of precisions, the cheapest first; text of the page stands beside them."""


@dataclass(frozen=True)
class Example:
    """A test image."""

    label: str
    path: str
    cost: float
    right: bool
    image: str
    """A `data:` address."""
    answer: str = ""
    """Words on what was answered instead of the label; empty where they say nothing, or it is not known."""


@dataclass(frozen=True)
class Path:
    """A path, and the test images that take it."""

    name: str
    share: float
    cost: float
    right: float
    examples: Sequence[Example] = ()


@dataclass(frozen=True)
class Steps:
    """Paths as boxes: one per segment, coloured by the precision that it runs at."""

    segments: int
    precisions: Sequence[str]
    """Those that have a colour, by rising bits."""

    def tint(self, precision: str) -> str:
        known = list(self.precisions)
        return TINTS[known.index(precision) % len(TINTS)] if precision in known else GREY

    def box(self, precision: str) -> str:
        return f'<i style="background:{self.tint(precision)}"></i>'

    def boxes(self, path: str) -> str:
        """A path with its segments that do not run."""
        steps = path.split("-")
        run = "".join(self.box(step) for step in steps)
        return f'<span class="path" title="{escape(path)}">{run}{"<i></i>" * (self.segments - len(steps))}</span>'

    def legend(self) -> str:
        boxes = "".join(f'<span class="key">{self.box(name)} {escape(name)}</span>' for name in self.precisions)
        return f'<p class="legend">{boxes}</p>'


@dataclass(frozen=True)
class Asked:
    """What answers a request for an accuracy loss."""

    loss: float
    """Points of accuracy that may be lost to the float network."""
    shown: bool
    """Whether validation shows that the point loses no more, with 95 % confidence."""
    limit: float
    """What the point loses at most, with 95 % confidence; points."""
    images: int
    """Validation images."""
    accuracy: float
    """On test."""
    cost: float
    """On test, in units of the static w8a8 network."""


@dataclass(frozen=True)
class Inputs:
    """What the deployed policy does with the test images at its budget."""

    method: str
    """In words for people, with the policy that `auto` chose."""
    budget: float
    samples: int
    segments: int
    precisions: Sequence[str]
    """Of the tree, by rising bits."""
    paths: Sequence[Path]
    """By rising cost."""
    pairs: Sequence[tuple[Example, Example]]
    """The easiest and the hardest image of a class."""
    classes: int
    """Number of classes with an easiest and a hardest image."""
    spent: Sequence[Mapping[str, float]] = ()
    """Mean cost of each segment by the precision that it runs at."""
    deciding: float = 0.0
    """Mean cost of exit heads, features and decisions."""
    first_of: str = ""
    """Words on what part of the test images and fits this is, where it is not all."""
    asked: Asked | None = None
    """What answers a request for a small accuracy loss; None where the float network's answers are not known."""

    @property
    def steps(self) -> Steps:
        return Steps(self.segments, self.precisions)


SHOWN = 8
"""Most paths that are shown unfolded."""


def which_inputs(inputs: Inputs | None, measure: Measure = ACCURACY) -> str:
    """Paths with their share and examples, and each class's easiest and hardest image; empty without inputs."""
    if inputs is None:
        return ""
    used = sorted(inputs.paths, key=lambda path: (-path.share, path.name))[:SHOWN]
    names = {path.name for path in used}
    rows = [path for path in inputs.paths if path.name in names]
    rest = [path for path in inputs.paths if path.name not in names]
    text = (
        f"<p>{escape(inputs.method)} at a budget of {inputs.budget:g} on {inputs.samples:,} test images"
        f"{escape(inputs.first_of)}. A box is a segment of the network that ran, with its precision; an image leaves behind the "
        f"last one.</p>{inputs.steps.legend()}" + _paths(inputs, rows, measure)
    )
    if rest:
        held = sum(path.share for path in rest)
        text += folded(
            f"{counted(len(rest), 'more path')}, taken by {percent(held)} of the images", _paths(inputs, rest, measure)
        )
    return text + _pairs(inputs, measure)


def _paths(inputs: Inputs, paths: Sequence[Path], measure: Measure) -> str:
    pictured = any(path.examples for path in paths)
    rows = []
    for path in paths:
        pictures = "".join(picture(example, measure) for example in path.examples)
        cells = [
            f"{inputs.steps.boxes(path.name)}<small>{escape(path.name)}</small>",
            percent(path.share),
            share(path.cost),
        ]
        rows.append([*cells, percent(path.right), *([f'<span class="strip">{pictures}</span>'] if pictured else [])])
    return table(["path", "of the images", "cost", measure.name, *(["such images"] if pictured else [])], rows)


def picture(example: Example, measure: Measure, words: str = "") -> str:
    """An image that says at a touch what became of it; it has a red frame where the answer is wrong."""
    judged = ("wrong", "right") if measure is ACCURACY else ("differs", "agrees")
    said = f"{example.label}: {example.path}, cost {example.cost:.3g}, {judged[example.right]}"
    mark = "" if example.right else ' class="wrong"'
    return f'<img{mark} src="{example.image}" alt="{escape(words + said)}" title="{escape(said)}">'


def _pairs(inputs: Inputs, measure: Measure) -> str:
    if not inputs.pairs:
        return ""
    left = inputs.classes - len(inputs.pairs)
    note = (
        f" Left out, to keep the page small: {counted(left, 'more class', 'more classes')}, whose hardest images cost less."
        if left
        else ""
    )
    cells = "".join(
        f"<figure>{picture(easy, measure, 'easiest, ')}{picture(hard, measure, 'hardest, ')}<figcaption>{escape(easy.label)}"
        f"<small>{share(easy.cost)} · {share(hard.cost)}</small></figcaption></figure>"
        for easy, hard in inputs.pairs
    )
    other = "a wrong answer" if measure is ACCURACY else f"an answer that differs from {measure.against}"
    return (
        "<h3>The easiest and the hardest image of each class</h3><p>By what was spent on them, then by the probability that the "
        f"answer gives the label; below them their cost. A red frame is {other}.{note}</p>"
        f'<div class="pairs">{cells}</div>'
    )


def where_cost_goes(inputs: Inputs | None) -> str:
    """Bars and a table of what the mean cost is made of; empty without inputs."""
    if inputs is None:
        return ""
    named = [(f"segment {number}", by) for number, by in enumerate(inputs.spent, start=1)]
    named.append(("heads and decisions", {"": inputs.deciding}))
    total, most = sum(sum(by.values()) for _, by in named), max(sum(by.values()) for _, by in named)
    bars, rows = [], []
    for name, by in named:
        cost = sum(by.values())
        parts = "".join(
            f'<b style="width:{100 * by[precision] / most:.1f}%;background:{inputs.steps.tint(precision)}"></b>'
            for precision in sorted(by, key=lambda p: list(inputs.precisions).index(p) if p else -1)
        )
        bars.append(f"<li><span>{escape(name)}</span><em>{parts}</em>{percent(cost / total)}</li>")
        rows += [[escape(f"{name} {precision}"), f"{own:.4f}", percent(own / total)] for precision, own in by.items()]
    return (
        f"<p>Mean over the same images: {share(total)} of the 8-bit network’s computation. Later segments cost less where "
        f'fewer images reach them.</p><ul class="bars">{"".join(bars)}</ul>'
        + folded("The numbers", table(["", "cost", "share"], rows))
    )
