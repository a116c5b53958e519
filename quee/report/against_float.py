"""What is deployed beside the float network, image by image: which classes lose, and on which images the two differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from quee.measure import ACCURACY, Measure
from quee.report.inputs import Example, Inputs, picture
from quee.report.markup import long_table, signed
from quee.report.sentence import share
from quee.work.counts import counted
from quee.work.percentages import DASH, percent

Row = Mapping[str, Any]
FEW = "A class has few images, so that a change of one or two says little."


@dataclass(frozen=True)
class AgainstFloat:
    """The deployed point and the float network on the same test images."""

    classes: Sequence[Row]
    """`class`, `images`, `right` and `cost` of the float network and of what is deployed, `gained`, `lost`."""
    lost: Sequence[Example]
    """Some of the images that the float network alone is right on, as they are deployed."""
    gained: Sequence[Example]
    """Some of those that only what is deployed is right on."""

    @property
    def changed(self) -> tuple[int, int]:
        """Images that only what is deployed is right on, and that only the float network is."""
        gained, lost = (sum(int(row[key]) for row in self.classes) for key in ("gained", "lost"))
        return gained, lost


def class_table(rows: Sequence[Row], head: Sequence[str], both_costs: bool = True) -> str:
    """Accuracy per class of two results, rows in their order, the long rest folded. `head` names the two results, and the images
    that only the second and only the first is right on."""
    lines = []
    for row in rows:
        before, after = (right / row["images"] for right in row["right"])
        gain = signed(after - before) if row["gained"] or row["lost"] else DASH
        costs = " → ".join(share(cost) for cost in (row["cost"] if both_costs else row["cost"][1:]))
        changed = f"{row['gained']:,} / {row['lost']:,}"
        lines.append(
            [escape(row["class"]), f"{row['images']:,}", percent(before), percent(after), gain, changed, costs]
        )
    first, second, only = map(escape, head)
    names = ["class", "images", first, second, "difference, points", only, "cost"]
    return long_table(names, lines, "class", "", "more classes")


def against_float(inputs: Inputs | None, found: AgainstFloat | None, measure: Measure = ACCURACY) -> str:
    """The section of the report; empty where the float network's answers are not known."""
    if inputs is None or found is None:
        return ""
    gained, lost = found.changed
    rows = sorted(found.classes, key=lambda row: ((row["right"][1] - row["right"][0]) / row["images"], -row["lost"]))
    text = (
        f"<p>Of {counted(inputs.samples, 'test image')}{escape(inputs.first_of)}, the float network alone is right on {lost:,}, "
        f"and the deployed classifier alone on {gained:,}. Classes that lose most stand first. {FEW}</p>"
        f"{class_table(rows, ['float', 'deployed', 'only deployed / float right'], both_costs=False)}"
    )
    judged = ("right", "wrong") if measure is ACCURACY else ("agrees", "differs")
    for title, count, examples in (
        (f"Float {judged[0]}, deployed {judged[1]}", lost, found.lost),
        (f"Float {judged[1]}, deployed {judged[0]}", gained, found.gained),
    ):
        if examples:
            some = "" if len(examples) == count else f", {len(examples)} of them here"
            text += f"<h3>{title}: {counted(count, 'image')}{some}</h3>{_pictures(inputs, examples, measure)}"
    return text


def _pictures(inputs: Inputs, examples: Sequence[Example], measure: Measure) -> str:
    cells = "".join(
        f"<figure>{picture(example, measure)}<figcaption>{escape(example.label)}{_answered(example)}"
        f"<small>{inputs.steps.boxes(example.path)} {share(example.cost)}</small></figcaption></figure>"
        for example in examples
    )
    return f'<div class="pairs">{cells}</div>'


def _answered(example: Example) -> str:
    return f"<small>{escape(example.answer)}</small>" if example.answer else ""
