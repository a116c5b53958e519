"""Weights that other libraries wrote answer as in these libraries, images prepared from their files included."""

from pathlib import Path

import pytest
import torch
from originals import CLASSES, HEADLESS, LABELS, ORIGINALS, SQUARE, VIT, of_transformers, photographs
from torch.nn import functional

from quee.data.weights import import_weights, load_weights
from quee.data.weights_facts import weights_facts
from quee.errors import QueeError
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


@torch.inference_mode()
def test_a_network_without_a_head_gives_its_original_features(images: list[Path], tmp_path: Path) -> None:
    config = {**VIT, "num_register_tokens": 2, "image_size": 32}
    original = of_transformers("DINOv3ViTModel", config, "ViT", **SQUARE)()
    target = tmp_path / "mine.safetensors"
    import_weights(None, original.save(tmp_path / "folder"), target)
    facts = weights_facts(target)
    assert facts.read_as.startswith(HEADLESS)
    built = create_backbone(facts.backbone, num_classes=CLASSES, **facts.kwargs)
    load_weights(built, target, new_head=True)
    built.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    x = torch.from_numpy(prepare(images, built.input))
    expected = functional.linear(original.network(x).pooler_output, built.head.weight, built.head.bias)
    assert expected.std(dim=0).min() > 1e-3
    torch.testing.assert_close(built(x), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("said", "instead", "message"),
    [
        ('"num_hidden_layers": 4', '"num_hidden_layers": 5', r"as its config.json says\) does not fit .*missing keys"),
        ('"hidden_size": 32', '"hidden_size": 64', r"as its config.json says\) does not fit .*wrong shapes"),
        ('"2": "eel"', '"2": "eel", "3": "fox"', "its configuration has 4 classes, the head in its weights 3"),
        ('"num_attention_heads": 4', '"num_attention_heads": 5', "cannot be built"),
    ],
)
def test_a_configuration_that_contradicts_the_weights_is_refused(
    said: str, instead: str, message: str, tmp_path: Path
) -> None:
    source = ORIGINALS["ViT"].make().save(tmp_path / "folder")
    config = (source / "config.json").read_text()
    assert said in config
    (source / "config.json").write_text(config.replace(said, instead))
    with pytest.raises(QueeError, match=message) as raised:
        import_weights(None, source, tmp_path / "mine.safetensors")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "mine.safetensors").exists()
