"""What configurations say is carried out as their library does, or refused in one line."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from originals import MEAN, STD, photographs
from PIL import Image, ImageOps
from safetensors.torch import save_file

from quee.data.preprocessing import Preprocessing, override
from quee.errors import IntegrityError, QueeError
from quee.network.checkpoints.described import prepared_by
from quee.network.checkpoints.reading import read_checkpoint
from quee.runtime.images import prepare

SQUARE = {"height": 40, "width": 40}
CROP = {"height": 31, "width": 31}
PROCESSORS: list[tuple[str, dict[str, Any]]] = [
    ("ViT", {"size": SQUARE}),
    ("ViT", {"size": {"height": 40, "width": 24}, "resample": 1, "do_normalize": False}),
    ("ViT", {"size": SQUARE, "do_rescale": False, "image_mean": [127.5] * 3, "image_std": [100.0] * 3}),
    ("DeiT", {"size": SQUARE, "crop_size": CROP}),
    ("Beit", {"size": SQUARE, "crop_size": CROP, "do_center_crop": True, "resample": 0}),
    ("ConvNext", {"size": {"shortest_edge": 30}}),
    ("ConvNext", {"size": {"shortest_edge": 31}, "crop_pct": 0.95, "image_mean": MEAN, "image_std": STD}),
    ("ConvNext", {"size": {"shortest_edge": 384}}),
    ("Bit", {"size": {"shortest_edge": 37}, "crop_size": CROP}),
    ("CLIP", {"size": {"shortest_edge": 33}, "crop_size": {"height": 32, "width": 32}}),
]


@pytest.mark.parametrize(("kind", "settings"), PROCESSORS)
def test_images_are_prepared_as_transformers_does(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    import transformers

    processor = getattr(transformers, f"{kind}ImageProcessorPil")(**settings)
    processor.save_pretrained(tmp_path)
    prepared = prepared_by(json.loads((tmp_path / "preprocessor_config.json").read_text()), {})
    paths = photographs(tmp_path)
    ours = prepare(paths, override(Preprocessing(prepared.size, channels=3), prepared.preprocessing))
    images = [ImageOps.exif_transpose(Image.open(path)).convert("RGB") for path in paths]
    theirs = torch.cat([processor(image, return_tensors="pt")["pixel_values"] for image in images])
    torch.testing.assert_close(torch.from_numpy(ours), theirs.float(), rtol=1e-5, atol=1e-5)


def test_a_size_in_one_number_is_a_square_or_the_shorter_side() -> None:
    for kind, resize in (("ViTFeatureExtractor", "both"), ("CLIPFeatureExtractor", "shorter")):
        old = {"feature_extractor_type": kind, "size": 224, "crop_size": 224}
        prepared = prepared_by(old, {})
        assert (prepared.size, prepared.preprocessing["resize"]) == ((224, 224), resize)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_processor_type": "DetrImageProcessor"}, "unknown image processor 'DetrImageProcessor'.*--set"),
        ({"do_resize": False}, "do_resize is false"),
        ({"do_pad": True}, "do_pad is true"),
        ({"resample": 5}, "resample 5 is not run here"),
        ({"size": {"longest_edge": 4}}, "size .*longest_edge.* not run here"),
        ({"image_processor_type": "BitImageProcessor", "do_center_crop": False}, "images would have different shapes"),
        ({"do_center_crop": True, "crop_size": 256}, r"the crop \(256, 256\) is larger than the resized image"),
        ({"image_mean": "grey"}, "must be numbers; got 'grey'"),
    ],
)
def test_what_is_not_run_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(QueeError, match=message):
        prepared_by(settings, {})


VIT: dict[str, Any] = {"model_type": "vit", "architectures": ["ViTForImageClassification"]}
STATE = {
    "vit.embeddings.patch_embeddings.projection.weight": torch.zeros(8, 3, 4, 4),
    "vit.encoder.layer.0.layernorm_before.weight": torch.zeros(8),
}


def folder(path: Path, config: object = VIT, **files: object) -> Path:
    """A folder with `config.json`, `model.safetensors` and other JSON files."""
    save_file(STATE, path / "model.safetensors")
    for name, content in {"config": config, **files}.items():
        (path / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[1]", "config.json is not a JSON object"),
        ({**VIT, "architectures": ["DetrForObjectDetection"]}, "DetrForObjectDetection is no image classifier"),
        ({**VIT, "problem_type": "multi_label_classification"}, "its head does not choose one class"),
        ({**VIT, "quantization_config": {"quant_method": "gptq"}}, r"its weights are quantized \(gptq\)"),
        ({**VIT, "id2label": {"0": "a", "2": "c"}}, "labels have the numbers"),
        ({**VIT, "id2label": ["a"]}, "labels must map"),
        ({**VIT, "model_type": "levit"}, "model_type 'levit' is not read; read are: beit, convnext"),
        ({**VIT, "model_type": "swin"}, "says model_type 'swin', which the names of the weights contradict"),
        ({**VIT, "hidden_size": "wide"}, "hidden_size must be a number"),
        ({**VIT, "hidden_act": "mish"}, "hidden_act 'mish' is not run here"),
        ({**VIT, "patch_size": [8, 4]}, r"patch_size must be the side of a square in pixels; got \[8, 4\]"),
        ({"auto_map": {"AutoModel": "own.Net"}}, "the network is code of its own"),
        ({**VIT, "architectures": "DetrForObjectDetection"}, "DetrForObjectDetection is no image classifier"),
        ({"architecture": "vit_tiny_patch16_224", "pretrained_cfg": "mine"}, "config.json has a value of another kind"),
        (
            {"architecture": "vit_tiny_patch16_224", "model_args": [1]},
            "has a value of another kind than is wanted there",
        ),
        (
            {"architecture": "vit_tiny_patch16_224", "input_size": [3, 32, 32], "crop_mode": "border"},
            "crop_mode 'border'",
        ),
    ],
)
def test_a_configuration_of_something_else_is_refused_in_one_line(config: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(QueeError, match=message) as raised:
        read_checkpoint(folder(tmp_path, config))
    assert "\n" not in str(raised.value)


def test_images_of_another_size_than_the_network_are_refused(tmp_path: Path) -> None:
    read_checkpoint(folder(tmp_path))
    with pytest.raises(QueeError, match=r"image_size 224; preprocessor_config.json makes images of \(32, 32\)"):
        read_checkpoint(folder(tmp_path, preprocessor_config={"size": {"height": 32, "width": 32}}))


@pytest.mark.parametrize(
    "settings", [{"resample": [3]}, {"size": {"height": 224, "width": 224}, "image_mean": {"r": 1}}]
)
def test_values_of_another_kind_in_a_processor_are_refused_in_one_line(settings: Any, tmp_path: Path) -> None:
    with pytest.raises(QueeError, match=r"preprocessor_config.json(: | has a value of another kind)") as raised:
        read_checkpoint(folder(tmp_path, preprocessor_config=settings))
    assert "\n" not in str(raised.value)


def test_adapters_are_refused_with_how_to_merge_them(tmp_path: Path) -> None:
    path = folder(tmp_path, adapter_config={"peft_type": "LORA"})
    with pytest.raises(QueeError, match=r"a LORA adapter .*merge_and_unload\(\)"):
        read_checkpoint(path)


def test_a_processor_needs_a_network(tmp_path: Path) -> None:
    path = folder(tmp_path, preprocessor_config={})
    (path / "config.json").unlink()
    with pytest.raises(QueeError, match="without config.json"):
        read_checkpoint(path)


def test_labels_that_are_numbers_are_no_names(tmp_path: Path) -> None:
    numbers = {"0": "LABEL_0", "1": "LABEL_1"}
    found = read_checkpoint(folder(tmp_path, {**VIT, "id2label": numbers}))
    assert found.classes is None
    assert "no names of classes" in found.said
    assert read_checkpoint(folder(tmp_path, {**VIT, "id2label": {"1": "b", "0": "a"}})).classes == ("a", "b")


def test_of_a_file_beside_a_configuration_that_is_said(tmp_path: Path) -> None:
    found = read_checkpoint(folder(tmp_path) / "model.safetensors")
    assert "config.json beside it was not read" in found.said
    assert not found.configured


def test_one_network_in_two_forms_is_read_once(tmp_path: Path) -> None:
    torch.save(STATE, folder(tmp_path) / "pytorch_model.bin")
    assert "of model.safetensors, not of pytorch_model.bin" in read_checkpoint(tmp_path).said
    torch.save({"state": {}, "param_groups": []}, tmp_path / "optimizer.pt")
    assert read_checkpoint(tmp_path).layout == "Hugging Face ViT or DeiT"


def test_code_in_a_file_of_a_folder_is_not_run(tmp_path: Path) -> None:
    class Command:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    (folder(tmp_path) / "model.safetensors").unlink()
    torch.save({**STATE, "more": Command()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(QueeError, match="runs code where it is loaded"):
        read_checkpoint(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_of_two_checkpoints_in_a_folder_none_is_guessed(tmp_path: Path) -> None:
    torch.save(STATE, folder(tmp_path) / "epoch_9.pth")
    with pytest.raises(QueeError, match=r"several checkpoints: model.safetensors, epoch_9.pth; give the file of one"):
        read_checkpoint(tmp_path)


def test_a_folder_without_weights_says_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-500").mkdir()
    with pytest.raises(QueeError, match="is a folder without weights$"):
        read_checkpoint(tmp_path)
    folder(tmp_path / "checkpoint-500")
    with pytest.raises(QueeError, match="give the folder of one network: checkpoint-500"):
        read_checkpoint(tmp_path)


def test_links_to_nothing_are_named(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to("../blobs/1f2e")
    with pytest.raises(IntegrityError, match=r"model.safetensors is a link to a file that is not there: ../blobs/1f2e"):
        read_checkpoint(tmp_path)
    with pytest.raises(IntegrityError, match="is a link to a file that is not there"):
        read_checkpoint(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_configuration_that_is_a_link_to_nothing_is_not_left_out(name: str, tmp_path: Path) -> None:
    path = folder(tmp_path, preprocessor_config={})
    (path / name).unlink()
    (path / name).symlink_to("../blobs/1f2e")
    with pytest.raises(IntegrityError, match=rf"{name} is a link to a file that is not there: ../blobs/1f2e"):
        read_checkpoint(path)
