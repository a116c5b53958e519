"""Weights that other libraries wrote answer as in these libraries, images prepared from their files included."""

from pathlib import Path

import pytest
import torch
from originals import CLASSES, LABELS, ORIGINALS, photographs

from quee.data.weights import import_weights, load_weights, weights_facts
from quee.network.architectures import create_backbone
from quee.runtime.images import prepare


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return photographs(tmp_path_factory.mktemp("photographs"))


@pytest.mark.parametrize("name", ORIGINALS)
@torch.inference_mode()
def test_imported_weights_answer_as_the_original(name: str, images: list[Path], tmp_path: Path) -> None:
    case = ORIGINALS[name]
    original = case.make()
    target = tmp_path / "weights" / "mine.safetensors"
    source = original.save(tmp_path)
    import_weights(case.backbone, source, target, kwargs=case.kwargs)
    facts = weights_facts(target)
    assert facts.read_as.startswith(case.layout)
    assert facts.classes == (tuple(LABELS.values()) if source.is_dir() else None)
    built = create_backbone(facts.backbone, num_classes=CLASSES, **facts.kwargs)
    load_weights(built, target, new_head=False)
    expected = original.logits(images)
    assert expected.std(dim=0).min() > 1e-3  # the images matter
    torch.testing.assert_close(built(torch.from_numpy(prepare(images, built.input))), expected, rtol=0, atol=1e-4)
