"""The report's sections on inputs: which images take which path, and what the computation is spent on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from quee.measure import ACCURACY, Measure
from quee.report.markup import folded, table
from quee.report.sentence import share
from quee.report.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION
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


@dataclass(frozen=True)
class Path:
    """A path, and the test images that take it."""

    name: str
    share: float
    cost: float
    right: float
    examples: Sequence[Example] = ()


@dataclass(frozen=True)
class Inputs:
    """What the deployed policy does with the test images at its budget."""

    method: str
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
        f"last one.</p>{_legend(inputs)}" + _paths(inputs, rows, measure)
    )
    if rest:
        held = sum(path.share for path in rest)
        text += folded(f"{len(rest)} more paths, taken by {percent(held)} of the images", _paths(inputs, rest, measure))
    return text + _pairs(inputs, measure)


def _legend(inputs: Inputs) -> str:
    boxes = "".join(f'<span class="key">{_box(inputs, name)} {escape(name)}</span>' for name in inputs.precisions)
    return f'<p class="legend">{boxes}</p>'


def _box(inputs: Inputs, precision: str) -> str:
    return f'<i style="background:{_tint(inputs, precision)}"></i>'


def _tint(inputs: Inputs, precision: str) -> str:
    known = list(inputs.precisions)
    return TINTS[known.index(precision) % len(TINTS)] if precision in known else GREY


def _boxes(inputs: Inputs, path: str) -> str:
    steps = path.split("-")
    run = "".join(_box(inputs, step) for step in steps)
    return f'<span class="path" title="{escape(path)}">{run}{"<i></i>" * (inputs.segments - len(steps))}</span>'


def _paths(inputs: Inputs, paths: Sequence[Path], measure: Measure) -> str:
    pictured = any(path.examples for path in paths)
    rows = []
    for path in paths:
        pictures = "".join(_picture(example, measure) for example in path.examples)
        cells = [
            f"{_boxes(inputs, path.name)}<small>{escape(path.name)}</small>",
            percent(path.share),
            share(path.cost),
        ]
        rows.append([*cells, percent(path.right), *([f'<span class="strip">{pictures}</span>'] if pictured else [])])
    return table(["path", "of the images", "cost", measure.name, *(["such images"] if pictured else [])], rows)


def _picture(example: Example, measure: Measure, words: str = "") -> str:
    judged = ("wrong", "right") if measure is ACCURACY else ("differs", "agrees")
    said = f"{example.label}: {example.path}, cost {example.cost:.3g}, {judged[example.right]}"
    mark = "" if example.right else ' class="wrong"'
    return f'<img{mark} src="{example.image}" alt="{escape(words + said)}" title="{escape(said)}">'


def _pairs(inputs: Inputs, measure: Measure) -> str:
    if not inputs.pairs:
        return ""
    left = inputs.classes - len(inputs.pairs)
    note = f" Left out, to keep the page small: {left:,} more classes, whose hardest images cost less." if left else ""
    cells = "".join(
        f"<figure>{_picture(easy, measure, 'easiest, ')}{_picture(hard, measure, 'hardest, ')}<figcaption>{escape(easy.label)}"
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
            f'<b style="width:{100 * by[precision] / most:.1f}%;background:{_tint(inputs, precision)}"></b>'
            for precision in sorted(by, key=lambda p: list(inputs.precisions).index(p) if p else -1)
        )
        bars.append(f"<li><span>{escape(name)}</span><em>{parts}</em>{percent(cost / total)}</li>")
        rows += [[escape(f"{name} {precision}"), f"{own:.4f}", percent(own / total)] for precision, own in by.items()]
    return (
        f"<p>Mean over the same images: {share(total)} of the 8-bit network’s computation. Later segments cost less where "
        f'fewer images reach them.</p><ul class="bars">{"".join(bars)}</ul>'
        + folded("The numbers", table(["", "cost", "share"], rows))
    )
