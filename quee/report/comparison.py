"""Two results side by side as one HTML page, of the same parts as the report; it loads nothing from elsewhere.

What a reader asks first stands first: which is better and by how much, in a sentence, and both curves in one figure. Then how
sure that is, what differs in settings, and what changes for which classes and images. Everything else is folded.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from quee.evaluation.near import DROPS
from quee.measure import ACCURACY, Measure, measure_of
from quee.policies.names import MAIN
from quee.report import Row
from quee.report.against_float import FEW, class_table
from quee.report.curve import Curve, figure_of, knob_of
from quee.report.inputs import Example, Steps, picture
from quee.report.lines import DEEP, line_of, operating
from quee.report.markup import folded, inlined, long_table, signed, table
from quee.report.sentence import Summary, points, share, spent
from quee.report.theme import CHANGES, document
from quee.work.counts import counted
from quee.work.percentages import DASH, difference, figure, percent

LETTERS = ("A", "B")
NAMED = 16
"""Longest label, in characters, that the figure has room for; of a longer one it shows the letter."""
LOOK = ("other1", "ours")
"""Styles of the two lines."""


@dataclass(frozen=True)
class Side:
    """One of the two results."""

    label: str
    summary: Summary
    curve: Sequence[Row] = ()
    """`evaluate/curve.parquet`"""
    bands: Sequence[Row] = ()
    """`evaluate/bands.parquet`"""
    dataset: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 by file read."""
    unit: float | None = None
    """BitFLOPs of the static w8a8 network, at which cost is 1; None where that is not known."""

    @property
    def measure(self) -> Measure:
        return measure_of(self.summary.metrics)

    @property
    def auc(self) -> float | None:
        own = self.summary.metrics.get("methods", {}).get(self.summary.method, {})
        found: float | None = own.get("auc")
        return found


@dataclass(frozen=True)
class Kind:
    """Test images that take another path, and what that did."""

    name: str
    images: int
    examples: Sequence[tuple[Example, Example]] = ()
    """An image under the first result and under the second."""


@dataclass(frozen=True)
class Shared:
    """Both results on the test images that both have, at one budget."""

    images: int
    tested: tuple[int, int]
    """Number of test images of each."""
    budget: float
    overall: Mapping[str, float]
    """`mean`, `low`, `high`: accuracy of the second less that of the first, mean over the budgets of `auc`."""
    at_budgets: Mapping[float, Mapping[str, float]]
    """The same at each budget."""
    classes: Sequence[Row]
    """`class`, `images`, `right` and `cost` of each result, `gained`, `lost`."""
    moved: int
    """Images that take another path."""
    changed: tuple[int, int]
    """Images that became right and that became wrong, on whatever path."""
    kinds: Sequence[Kind]
    paths: Sequence[Row]
    """`first`, `second` (paths), `images`, `gained`, `lost`; most images first."""
    steps: tuple[Steps, Steps]
    first_of: str = ""
    """Words on what part of the test images and fits this is, where it is not all."""


@dataclass(frozen=True)
class Comparison:
    """All that the page says."""

    sides: tuple[Side, Side]
    settings: Mapping[str, tuple[str | None, str | None]]
    """By name, the two values that differ."""
    numbers: Mapping[str, tuple[float | None, float | None]]
    """By name, the two numbers that differ."""
    same_images: bool | None
    """Whether both were tested on the same images; None where that is not known."""
    shared: Shared | None = None
    left_out: Sequence[str] = ()
    """Sentences: what is left out, and why."""

    @property
    def comparable(self) -> bool:
        """Whether accuracies of the two mean the same: one data set, and one measure."""
        one, other = self.sides
        return one.dataset == other.dataset and one.measure is other.measure


def sentence(found: Comparison) -> str:
    """Which result is better and by how much, as far as it can be told."""
    one, other = found.sides
    if not found.comparable:
        return f"{one.label} and {other.label} are of different data, so that their accuracies do not compare. {_costs(found)}"
    said, shared = one.measure.said, found.shared
    if shared is not None:
        of = "" if found.same_images else f", on the {counted(shared.images, 'test image')} that both have"
        of += shared.first_of
        mean, low, high = (shared.overall[key] for key in ("mean", "low", "high"))
        if mean == low == high == 0:
            return said(f"{one.label} and {other.label} are equally accurate at every budget{of}.")
        better, worse = (other, one) if mean > 0 else (one, other)
        if low > 0 or high < 0:
            ends = (low, high) if mean > 0 else (-high, -low)
            return said(
                f"{better.label} is better than {worse.label}: by {figure(abs(mean), 2)} points of accuracy, averaged over "
                f"budgets (95 %: {signed(ends[0])} to {signed(ends[1])}){of}."
            )
        return said(
            f"{one.label} and {other.label} cannot be told apart: averaged over budgets, {other.label} has "
            f"{signed(mean)} points of accuracy (95 %: {signed(low)} to {signed(high)}){of}."
        )
    if one.auc is None or other.auc is None:
        unknown = one.label if one.auc is None else other.label
        return said(f"Which is better cannot be told: the accuracy of {unknown} over all budgets is not known.")
    apart = other.auc - one.auc
    better, worse = (other, one) if apart > 0 else (one, other)
    on = {True: "the same test images", False: "different test images", None: "test images that may differ"}
    apart_at = intervals_at(found)
    last = "" if apart_at is None else f"; at a budget of {apart_at[0]:g} their 95 % intervals {_OVERLAP[apart_at[1]]}"
    return said(
        f"{better.label} has {figure(abs(apart), 2)} points more accuracy than {worse.label}, averaged over budgets, on "
        f"{on[found.same_images]}{last}."
    )


_OVERLAP = {True: "overlap", False: "do not overlap"}


def intervals_at(found: Comparison) -> tuple[float, bool] | None:
    """The first result's default budget, and whether the intervals of the two overlap there; None where they are not known."""
    point = found.sides[0].summary.point
    rows = [row for row in found.sides[1].summary.own() if point is not None and row["budget"] == point["budget"]]
    pair = [row for row in (point, *rows) if row is not None and None not in (row.get("low"), row.get("high"))]
    if len(pair) < 2:
        return None
    return pair[0]["budget"], pair[0]["low"] <= pair[1]["high"] and pair[1]["low"] <= pair[0]["high"]


def _costs(found: Comparison) -> str:
    """What each needs for nearly its own float network's accuracy, which compares across data sets."""
    parts = []
    for side in found.sides:
        reached = side.summary.reached()
        if reached is None:
            parts.append(f"{side.label} does not come within {points(max(DROPS))} of its float network")
        else:
            drop, cost = reached
            parts.append(f"{side.label} comes within {points(drop)} of its float network {spent(cost)}")
    return f"{'; '.join(parts)}. Such a point is picked on the test images."


def comparison_page(found: Comparison) -> str:
    """The page as HTML text."""
    one, other = found.sides
    said = one.measure.said if found.comparable else str
    title = f"{one.label} and {other.label}"
    first = (
        f'<header><p class="kicker">QuEE: {escape(title)} compared</p>'
        f"<h1>{escape(verdict(found)).replace(' %', '&nbsp;%')}</h1></header>\n"
        f'<div class="first"><figure id="curves">\n{inlined(curves(found))}<figcaption>{_caption(found)}</figcaption></figure>\n'
        f'<section id="deploy">{"".join(_about(letter, side) for letter, side in zip(LETTERS, found.sides, strict=True))}'
        "</section></div>"
    )
    left_out = "".join(f"<li>{escape(reason)}</li>" for reason in found.left_out)
    body = [
        first,
        f'<h2 id="sure">How sure that is</h2>{said(_sure(found))}',
        f'<h2 id="left-out">Left out</h2><ul>{left_out}</ul>' if left_out else "",
        f'<h2 id="settings">What differs in settings</h2>{_settings(found)}',
        f'<h2 id="budgets">{said("Accuracy at budgets")}</h2>{said(_budgets(found))}',
        *_of_images(found),
        '<h2 id="more">Everything else</h2>',
        folded("Every method", said(_methods(found)), "methods"),
        folded("Other numbers that differ", _numbers(found), "numbers"),
        folded("Lineage", _lineage(found), "lineage"),
    ]
    return document(title, "\n".join(part for part in body if part), CHANGES)


def curves(found: Comparison) -> str:
    """Both deployed methods' curves in one figure, as SVG text."""
    drawn = []
    levels: dict[float, str] = {}
    for letter, look, side in zip(LETTERS, LOOK, found.sides, strict=True):
        name, method = _short(letter, side), side.summary.method
        rows = operating(side.curve, method)
        drawn.append(
            Curve(
                name,
                look,
                line_of(side.curve, side.bands, method),
                [(row, f"{side.label}, {method}{knob_of(row)}") for row in rows],
                [row for row in side.bands if row["method"] == method] if found.shared is None else [],
                side.summary.point,
            )
        )
        if (full := side.summary.metrics.get("fp32_accuracy")) is not None:
            levels[full] = f"float, {percent(full)}"
    measure, lines = found.sides[0].measure, [curve for curve in drawn if curve.line]
    highest = [100 * max([accuracy for _, accuracy in curve.line]) for curve in lines]
    apart = max(highest) - min(highest) if highest else 0.0
    return figure_of(lines, levels, measure, deep=DEEP + apart)


def verdict(found: Comparison) -> str:
    """`sentence`, and where it compares accuracies at equal costs, what the costs are shares of."""
    return f"{sentence(found)} {units(found) if found.comparable else ''}".strip()


def routing(found: Comparison) -> str:
    """What either gains by routing, over its own fixed precisions, in a sentence; empty where it is not known of both."""
    gains = [side.summary.gain() for side in found.sides]
    if not all(gains):
        return ""
    told = [f"{difference(gain)} {'points of accuracy ' * first}to {side.label}" for first, side, gain in
            zip((1, 0), found.sides, gains, strict=True) if gain]  # fmt: skip
    return found.sides[0].measure.said(
        f"Averaged over budgets, routing adds {' and '.join(told)}, over the best fixed precisions of each (static_hull). "
        f"Deployed are {' and '.join(f'{side.summary.deployed} in {side.label}' for side in found.sides)}."
    )


def units(found: Comparison) -> str:
    """How many times as much one side's cost 1 is as the other's, in a sentence; empty where they are equal or not known."""
    one, other = found.sides
    if one.unit is None or other.unit is None:
        return ""
    less, more = sorted(found.sides, key=lambda side: side.unit or 0.0)
    times = (more.unit or 0.0) / (less.unit or 1.0)
    if times < 1.005:
        return ""
    return (
        f"Costs are shares of each one's own 8-bit network; that of {more.label} computes {times:.2g} times as much as that of "
        f"{less.label}. At equal computation the order may be another."
    )


def _short(letter: str, side: Side) -> str:
    return side.label if len(side.label) <= NAMED else letter


def _caption(found: Comparison) -> str:
    one, other = found.sides
    text = (
        "Higher and further left is better. Each line is what the experiment deploys; the ring is its default budget."
    )
    if apart := units(found):
        text += f" {apart}"
    if found.shared is None:
        text += " The band holds for a whole line at once with 95 % confidence."
    if found.same_images is False:
        text += " Each line is measured on the test images of its own experiment."
    if any(not line_of(side.curve, side.bands, side.summary.method) for side in (one, other)):
        text += " A curve that is not known is left out."
    return one.measure.said(escape(text))


def _about(letter: str, side: Side) -> str:
    summary = side.summary
    numbers = summary.numbers()
    facts = f"On {summary.tested()}."
    return (
        f"<h2>{letter}: {escape(side.label)}</h2><p>{escape(summary.sentence(named=True))}</p>"
        f"<p>{escape(numbers[:1].upper() + numbers[1:])}{'.' if numbers else ''}</p><p><small>{escape(facts)}</small></p>"
    )


def _sure(found: Comparison) -> str:
    one, other = found.sides
    shared, lines = found.shared, []
    if not found.comparable:
        return "<p>Compare what each needs for nearly its own float network’s accuracy, in the boxes above.</p>"
    if shared is None:
        why = {
            True: "Both were tested on the same images, but the answers to single images of one of them are not here",
            False: "The two were tested on different images",
            None: "Whether both were tested on the same images is not known",
        }[found.same_images]
        return f"<p>{why}: there is no paired interval. The bands in the figure are each for one result alone.</p>"
    counts = " and ".join(f"{escape(s.label)} on {n:,}" for s, n in zip(found.sides, shared.tested, strict=True))
    if found.same_images:
        lines.append(f"Both were tested on the same {counted(shared.images, 'image')}{escape(shared.first_of)}.")
    else:
        lines.append(
            f"<strong>The test sets differ</strong>: {counts} images. Compared are the {shared.images:,} that both have"
            f"{escape(shared.first_of)}; the figure shows each result on all of its own."
        )
    lines.append(
        f"{escape(other.label)} less {escape(one.label)}, averaged over budgets, in points of accuracy: {_apart(shared.overall)} "
        "(95 %, paired bootstrap over these images). It says nothing of other seeds or another division of the images."
    )
    if shared.first_of and one.auc is not None and other.auc is not None:
        lines.append(
            f"As reported, over all seeds and folds: {escape(one.label)} {percent(one.auc, 2)}, {escape(other.label)} "
            f"{percent(other.auc, 2)}, a mean over budgets of accuracy, {signed(other.auc - one.auc)} points apart."
        )
    gained, lost = shared.changed
    lines.append(
        f"At a budget of {shared.budget:g}, {escape(other.label)} is right on {counted(gained, 'image')} that "
        f"{escape(one.label)} gets wrong, and wrong on {counted(lost, 'image')} that {escape(one.label)} gets right."
        if gained or lost
        else f"At a budget of {shared.budget:g} the two are right on the same images."
    )
    return f"<ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>"


def _apart(difference: Mapping[str, float]) -> str:
    if difference["low"] == difference["high"] == 0:
        return "none"
    return f"{signed(difference['mean'])} ({signed(difference['low'])} to {signed(difference['high'])})"


def _heads(found: Comparison) -> list[str]:
    return [escape(side.label) for side in found.sides]


def _settings(found: Comparison) -> str:
    if not found.settings:
        return "<p>Nothing: the settings are equal.</p>"
    rows = [
        [
            f"<code>{escape(name)}</code>",
            *(DASH if value is None else f"<code>{escape(value)}</code>" for value in pair),
        ]
        for name, pair in found.settings.items()
    ]
    return long_table(["setting", *_heads(found)], rows, "setting", "wrapped")


def _budgets(found: Comparison) -> str:
    points_ = [{row["budget"]: row for row in side.summary.own()} for side in found.sides]
    budgets = sorted(points_[0].keys() & points_[1].keys())
    if not budgets:
        return "<p>There is no budget at which both were evaluated.</p>"
    pairs = {} if found.shared is None else found.shared.at_budgets
    rows = []
    for budget in budgets:
        pair = [own[budget] for own in points_]
        cells = [
            f"{percent(row['test_accuracy'])}{_interval(row)}<small>cost {row['test_cost']:.3g}</small>" for row in pair
        ]
        cells.append(signed(pair[1]["test_accuracy"] - pair[0]["test_accuracy"]) if found.comparable else DASH)
        rows.append([f"{budget:g}", *cells, *([_apart(pairs[budget]) if budget in pairs else DASH] if pairs else [])])
    head = ["budget", *_heads(found), "difference", *(["paired difference"] if pairs else [])]
    text = "Accuracy on test of what each deploys, with its 95 % interval and the realised cost, and the difference in points."
    if found.shared is not None:
        text += f" The paired difference is that on {counted(found.shared.images, 'image')}{found.shared.first_of}, at 95 %."
    return f"<p>{escape(text)}</p>{table(head, rows)}"


def _interval(row: Mapping[str, Any]) -> str:
    if row.get("low") is None or row.get("high") is None:
        return ""
    return f"<small>{figure(row['low'], 1)} to {figure(row['high'], 1)}</small>"


def _of_images(found: Comparison) -> Iterable[str]:
    """The parts on classes and images; nothing where the two have no images in common."""
    if (shared := found.shared) is None:
        return
    measure = found.sides[0].measure
    yield f'<h2 id="classes">What changes by class</h2>{measure.said(_classes(found, shared))}'
    yield f'<h2 id="images">Images that take another path</h2>{measure.said(_changes(found, shared))}'


def _classes(found: Comparison, shared: Shared) -> str:
    one, other = found.sides
    rows = sorted(
        shared.classes,
        key=lambda row: (-abs(row["right"][1] - row["right"][0]) / row["images"], -row["gained"] - row["lost"]),
    )
    return (
        f"<p>At a budget of {shared.budget:g}, on {counted(shared.images, 'test image')}{escape(shared.first_of)}; the classes "
        f"that change most first. Became right: {escape(one.label)} is wrong and {escape(other.label)} right; became wrong: the "
        f"other way round. {FEW}</p>" + class_table(rows, [one.label, other.label, "became right / wrong"])
    )


def _changes(found: Comparison, shared: Shared) -> str:
    one, other = found.sides
    text = (
        f"<p>At a budget of {shared.budget:g}, {shared.moved:,} of {counted(shared.images, 'test image')} "
        f"({percent(shared.moved / shared.images)}) take another path in {escape(other.label)} than in {escape(one.label)}. "
        "A box is a segment of the network that ran, with its precision; an image leaves behind the last one.</p>"
    )
    if not shared.moved:
        return text
    text += shared.steps[0].legend()
    for kind in shared.kinds:
        if kind.images:
            text += f"<h3>{_KINDS[kind.name]}: {counted(kind.images, 'image')}</h3>" + _examples(found, shared, kind)
    rows = []
    for row in shared.paths:
        ends = zip(shared.steps, (row["first"], row["second"]), strict=True)
        ways = [f"{steps.boxes(path)}<small>{escape(path)}</small>" for steps, path in ends]
        rows.append([*ways, *(f"{row[key]:,}" for key in ("images", "gained", "lost"))])
    return (
        text
        + "<h3>From which path to which</h3>"
        + long_table([*_heads(found), "images", "became right", "became wrong"], rows, "change", "ways")
    )


_KINDS = {
    "became right": "Became right",
    "became wrong": "Became wrong",
    "cheaper": "Right or wrong as before, at less cost",
    "dearer": "Right or wrong as before, at more cost",
}


def _examples(found: Comparison, shared: Shared, kind: Kind) -> str:
    measure, cells = found.sides[0].measure, []
    for pair in kind.examples:
        ways = ""
        for letter, steps, example in zip(LETTERS, shared.steps, pair, strict=True):
            judged = "" if example.right else f", {_not(measure)}"
            ways += f"<small>{letter} {steps.boxes(example.path)} {share(example.cost)}{judged}</small>"
        cells.append(
            f"<figure>{picture(pair[1], measure)}<figcaption>{escape(pair[0].label)}{ways}</figcaption></figure>"
        )
    return f'<div class="pairs changes">{"".join(cells)}</div>' if cells else ""


def _not(measure: Measure) -> str:
    return "wrong" if measure is ACCURACY else "differs"


def _methods(found: Comparison) -> str:
    known = [side.summary.metrics.get("methods", {}) for side in found.sides]
    names = sorted({*known[0], *known[1]}, key=lambda name: (name not in MAIN, name))
    head = ["method", *(f"mean over budgets, {name}" for name in _heads(found)), "difference"]
    head += [f"cost within {points(min(DROPS))}, {name}" for name in _heads(found)]
    rows = []
    for name in names:
        own = [methods.get(name, {}) for methods in known]
        auc = [values.get("auc") for values in own]
        apart = signed(auc[1] - auc[0]) if None not in auc and found.comparable else DASH
        costs = [values.get(f"cost_at_drop_{min(DROPS)}") for values in own]
        rows.append([escape(name), *(percent(value, 2) for value in auc), apart, *(_cost(cost) for cost in costs)])
    return table(head, rows)


def _cost(cost: float | None) -> str:
    return DASH if cost is None else f"{cost:.3g}"


def _numbers(found: Comparison) -> str:
    rows = [
        [f"<code>{escape(name)}</code>", *(DASH if value is None else f"{value:.5g}" for value in pair)]
        for name, pair in found.numbers.items()
    ]
    return table(["number", *_heads(found)], rows) if rows else ""


def _lineage(found: Comparison) -> str:
    rows = "".join(
        f"<tr><td>{escape(side.label)}: {escape(name)}</td><td><code>{escape(digest)}</code></td></tr>"
        for side in found.sides
        for name, digest in sorted(side.digests.items())
    )
    return (
        "<p>This page was made from these files alone (SHA-256), from the images that dataset.json names and from the cache "
        "that tree.json names. The same files give the same page, byte for byte.</p>"
        f'<div class="scroll"><table class="digests"><tbody>{rows}</tbody></table></div>'
    )
