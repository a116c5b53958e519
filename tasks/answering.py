"""A float network that answers images without labels, for `quee data add --answers`."""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from quee.data.importers.base import Answering
from quee.errors import QueeError, UsageError


def answering(weights: str, channels: int, names: Sequence[str] | None = None) -> Answering:
    """The network of weights that are here; `names` call its outputs where the weights do not.

    Raises UsageError for weights without a head, whose outputs have no names, or whose preprocessing nobody stated or measured.
    """
    from quee.data.weights import head_classes
    from quee.data.weights_facts import PUBLISHED, weights_facts, weights_path
    from quee.work.io import file_digest

    path = weights_path(weights)
    facts, outputs = weights_facts(path), head_classes(path)
    if outputs is None:
        raise UsageError(f"--answers {weights}: these weights have no head, so that they answer nothing")
    if names is not None and facts.classes is not None and sorted(names) != sorted(facts.classes):
        raise UsageError(
            f"--class-order: the outputs of {weights!r} are called otherwise: {', '.join(facts.classes[:5])}, …"
        )
    classes = tuple(names or facts.classes or ())
    if len(classes) != outputs:
        what = f"{len(classes)} names" if classes else "no names"
        raise UsageError(
            f"--answers {weights}: its {outputs} outputs have {what}; give --class-order FILE, a file with a name a line, in "
            "the order of the outputs"
        )
    if not (facts.own or facts.preprocessing or weights in PUBLISHED):
        raise UsageError(
            f"--answers {weights}: how its images are prepared is not stated, and cannot be measured without labels; "
            f"`quee weights add {weights} FILE --set 'preprocessing={{mean: [...], std: [...]}}' --replace` states it"
        )

    def answers(images: Iterator[bytes], count: int) -> np.ndarray:
        return _answers(weights, classes, channels, images, count)

    return Answering(weights, classes, {"weights": weights, "sha256": file_digest(path)}, answers)


def _answers(weights: str, classes: Sequence[str], channels: int, images: Iterator[bytes], count: int) -> np.ndarray:
    from torch import Tensor

    from quee.data.decode import decode, to_array
    from quee.data.transforms import to_unit
    from quee.data.weights_facts import weights_facts, weights_path
    from quee.network.asking import ask
    from quee.network.device import place
    from quee.network.execution import MICRO_BATCH
    from quee.settings.backbone import Backbone, Measured
    from quee.work.progress import progress
    from tasks.backbone import build
    from tasks.scale import read_scale

    name = weights_facts(weights_path(weights)).backbone
    settings = Backbone(name=name, mode="pretrained", weights=weights, gates=Measured())
    backbone, _ = build(settings, classes)
    backbone.to(place(read_scale().device)).eval()
    transform, found, rows = backbone.input, np.zeros(count, np.int64), list[int]()
    with progress("answers of the float network", count) as bar:

        def batches() -> Iterator[Tensor]:
            at = 0
            while part := list(islice(images, MICRO_BATCH)):
                pixels = []
                for row, data in enumerate(part, at):
                    try:
                        pixels.append(to_array(transform.fit(decode(data, channels, ""))))
                    except QueeError:  # named, or left out, when the images are inspected
                        continue
                    rows.append(row)
                if pixels:
                    yield transform.normalise(to_unit(transform.coloured(np.stack(pixels))))
                at += len(part)
                bar.advance(len(part))

        answers = ask(backbone, batches())
    found[rows] = answers
    return found
