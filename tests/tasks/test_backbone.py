"""Stage `backbone` in each of its modes, on scikit-learn's digits cut into an official training and evaluation set."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from quee.data.identity import sample_keys
from quee.data.importers import import_dataset
from quee.data.source import open_dataset
from quee.data.splits import split_ids
from quee.data.weights import import_weights, record, take_weights
from quee.data.weights_facts import WeightsFacts, seen_samples, weights_facts, weights_path
from quee.data.writer import Sample, encode_png, write_images
from quee.errors import UsageError
from quee.network.architectures import create_backbone
from quee.network.base import SegmentedBackbone
from quee.network.files import load_backbone
from quee.settings.experiment import BLOCKS
from quee.work.io import file_digest, read_json, read_table
from tasks import backbone, prepare
from tasks.stage import artifacts_of, run_stage

ROOT = Path(__file__).parents[2]
OUT = Path("artifacts/small/backbone")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    import_dataset("digits", None, Path("data/digits"))
    (file,) = Path("data/digits").iterdir()
    table = pq.read_table(file)
    pq.write_table(table.slice(0, 300), file)
    pq.write_table(table.slice(300, 200), Path("data/digits/test-00000-of-00001.parquet"))
    Path("dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())


def weigh(classes: int = 10, trained_on: tuple[str, ...] | None = ("digits",), name: str = "mine") -> dict[str, Any]:
    """Weights of the full-size backbone, so that they can be imported; the head for ten classes knows the digits."""
    torch.manual_seed(7)
    backbone = create_backbone("vit_digits", num_classes=classes)
    if classes == 10:
        fit_head(backbone)
    state = backbone.state_dict()
    torch.save(state, "w.pth")
    import_weights("vit_digits", Path("w.pth"), weights_path(name), trained_on=trained_on)
    return state


def fit_head(backbone: SegmentedBackbone) -> None:
    """Fit the head on random features of the training images, by least squares."""
    images, seen, ids = open_dataset(Path("data/digits"), "digits"), [], np.arange(300)
    head = backbone.get_submodule("head")
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        backbone(images.batch(ids, backbone.input))
    hook.remove()
    x = torch.cat([seen[0], torch.ones(len(ids), 1)], dim=1)
    solution = torch.linalg.lstsq(x, torch.eye(10)[images.labels[ids]]).solution.clone()
    head.load_state_dict({"weight": solution[:-1].T, "bias": solution[-1]})


def run(
    evaluation_set: str = "held_out",
    limit: int | None = None,
    seed_of_splits: int = 0,
    share: float = 0.5,
    dataset: str = "digits",
    **settings: Any,
) -> dict[str, Any]:
    content: dict[str, Any] = {block: {} for block in BLOCKS}
    splits = {"train": share, "calibration": 16, "predictor": 0.2, "validation": 0.1, "test": 0.2}
    splits |= {"test": 1.0} if evaluation_set == "test" else {}
    content["prepare"] = {"dataset": dataset, "splits": {**splits, "evaluation_set": evaluation_set}}
    content["prepare"]["seed"] = seed_of_splits
    content["backbone"] = {"name": "vit_digits", "epochs": 2, "batch_size": 64, "weights": "mine", **settings}
    Path("experiments").mkdir(exist_ok=True)
    Path("experiments/small.yaml").write_text(yaml.safe_dump(content))
    run_stage("prepare", prepare.run, "small", limit)
    run_stage("backbone", backbone.run, "small", limit)
    described: dict[str, Any] = read_json(artifacts_of("small", limit) / "backbone/backbone.json")
    return described


def test_pretrained_weights_are_used_as_they_are() -> None:
    state = weigh()
    described = run(mode="pretrained")
    assert described["fitted_on"] == "official training set"
    assert described["mode"] == "pretrained"
    assert described["weights"] == {
        "name": "mine",
        "sha256": file_digest(weights_path("mine")),
        "trained_on": ["digits"],
    }
    loaded = load_backbone(OUT).state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())
    history = read_table(OUT / "history.parquet")
    assert history.num_rows == 0
    assert "validation_accuracy" in history.column_names
    assert set(read_json(OUT / "metrics.json")["accuracy"]) == {"validation", "test"}


def test_gates_by_measurement_are_chosen_after_training_and_always_the_same() -> None:
    described = run(evaluation_set="pooled", mode="train", weights=None, epochs=1, gates={"auto": 3})
    record, first = read_json(OUT / "gates.json"), (OUT / "gates.json").read_bytes()
    assert described["gates"] == record["chosen"]["gates"] and len(described["gates"]) == 3
    assert described["gates"][-1] == 8
    assert record["evenly_spaced"]["gates"] == [3, 5, 8]
    validation = split_ids(OUT.parent / "prepare" / "splits.parquet")["validation"]
    assert record["images"] == {"fitted": len(described["fitted_on"]), "held_out": len(validation)}
    assert load_backbone(OUT).gates == tuple(described["gates"])
    weights = (OUT / "model.safetensors").read_bytes()
    run(evaluation_set="pooled", mode="train", weights=None, epochs=1, gates={"auto": 3})
    assert (OUT / "gates.json").read_bytes() == first
    run(evaluation_set="pooled", mode="train", weights=None, epochs=1, gates=[4, 8])
    assert (OUT / "model.safetensors").read_bytes() == weights  # gates do not touch the training
    assert not (OUT / "gates.json").exists()


def test_pretrained_weights_whose_answers_are_not_above_chance_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    state = weigh()
    turned = {key: value.roll(1, 0) if key.startswith("head.") else value for key, value in state.items()}
    torch.save(turned, "w.pth")
    import_weights("vit_digits", Path("w.pth"), weights_path("mine"), trained_on=("digits",))
    with pytest.raises(UsageError, match="where its outputs are in another order .an order of its own") as raised:
        run(mode="pretrained", share=0.9)
    assert "`quee weights check mine digits` measures" in str(raised.value) and "\n" not in str(raised.value)
    torch.manual_seed(1)
    torch.save({**state, "head.weight": torch.randn_like(state["head.weight"])}, "w.pth")
    import_weights("vit_digits", Path("w.pth"), weights_path("mine"), trained_on=("digits",))
    with pytest.raises(
        UsageError, match="of 'mine''s answers to 150 training images are right, which is not above chance"
    ):
        run(mode="pretrained")
    run(mode="pretrained", limit=100)  # too few images to tell
    assert not OUT.exists()


def test_what_weights_say_about_their_images_is_taken_unless_the_experiment_says_otherwise(
    capsys: pytest.CaptureFixture[str],
) -> None:
    weigh()
    record(weights_path("mine"), {"mean": [0.25], "std": [0.5]}, None, "on digits")
    described = run(mode="pretrained")
    assert described["kwargs"]["preprocessing"] == {"mean": [0.25], "std": [0.5]}
    assert load_backbone(OUT).input.mean == (0.25,)
    described = run(mode="pretrained", kwargs={"preprocessing": {"mean": [0.3]}})
    assert described["kwargs"]["preprocessing"] == {"mean": [0.3], "std": [0.5]}
    said = capsys.readouterr().out
    assert "backbone.kwargs.preprocessing.mean: [0.3], as the experiment says; weights 'mine' say [0.25]" in said


def test_outputs_are_put_into_the_order_of_the_data_set() -> None:
    state = weigh()
    names = tuple(map(str, (*range(3, 10), *range(3))))
    turned = {key: value.roll(-3, 0) if key.startswith("head.") else value for key, value in state.items()}
    torch.save(turned, "w.pth")
    import_weights("vit_digits", Path("w.pth"), weights_path("mine"), trained_on=("digits",))
    record(weights_path("mine"), {}, names, "")
    run(mode="pretrained")
    loaded = load_backbone(OUT).state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())
    record(weights_path("mine"), {}, tuple("abcdefghij"), "")
    with pytest.raises(
        UsageError, match="mine.safetensors has 10 names, without 0, 1, 2, 3, 4, and 5 more and with a, b"
    ):
        run(mode="pretrained")


def test_weights_of_an_experiment_know_the_samples_they_were_fitted_on(capsys: pytest.CaptureFixture[str]) -> None:
    run("pooled", mode="train", weights=None, epochs=12, warmup_epochs=0.0, learning_rate=3e-3)
    train = read_json(OUT / "backbone.json")["fitted_on"]
    assert taken("own").seen == {"digits": len(train)}
    described = run("pooled", mode="pretrained", weights="own", epochs=1)
    assert described["fitted_on"] == train  # the same division: nothing held out was seen
    metrics = read_json(OUT / "metrics.json")
    assert set(metrics["accuracy"]) == {"train", "validation", "test"} and "svc_accuracy" in metrics
    with pytest.raises(UsageError, match=r"'own' was fitted on samples that are held out here \(.* in test"):
        run("pooled", mode="pretrained", weights="own", seed_of_splits=1)
    run("pooled", limit=200, mode="pretrained", weights="own")
    assert "smoke run: backbone.weights: 'own' was fitted on" in capsys.readouterr().out


def taken(name: str, dataset: str = "digits") -> WeightsFacts:
    take_weights(OUT, OUT.parent / "prepare", weights_path(name), open_dataset(Path("data") / dataset, dataset))
    return weights_facts(weights_path(name))


def test_samples_seen_before_weights_were_trained_on_are_not_forgotten() -> None:
    first = run(mode="train", weights=None, epochs=1)["fitted_on"]
    taken("first")
    second = run(mode="finetune", weights="first", epochs=1, share=0.25)["fitted_on"]
    split = read_table(OUT.parent / "prepare/splits.parquet")
    now = {
        i for i, part in zip(*(split[c].to_pylist() for c in ("sample_id", "split")), strict=True) if part == "train"
    }
    assert set(first) - now  # so there is something to forget
    assert second == sorted({*first, *now})
    assert taken("second").seen == {"digits": len(second)}
    assert seen_samples("second", open_dataset(Path("data/digits"), "digits"), "digits").nonzero()[0].tolist() == second
    turned("mnist")
    run("test", mode="finetune", weights="second", epochs=1, dataset="mnist")
    third = taken("third", "mnist").seen
    assert third is not None and third["digits"] == len(second)
    assert third["mnist"] == len(read_json(OUT / "backbone.json")["fitted_on"])
    with pytest.raises(UsageError, match="'third' was fitted on samples that are held out here"):
        run("pooled", mode="finetune", weights="third")


def turned(name: str) -> None:
    """The data set `name`: the images of digits upside down."""
    (Path("data") / name).mkdir()
    for file in Path("data/digits").iterdir():
        images = open_dataset(Path("data/digits"), "digits")
        first = 0 if file.name.startswith("train") else images.train_samples
        rows = range(first, images.train_samples if first == 0 else len(images))
        samples = [Sample(encode_png(images.pixels(i)[::-1]), "", int(images.labels[i])) for i in rows]
        write_images(Path("data") / name / file.name, samples, images.classes)


def test_the_same_images_are_recognised_in_another_data_set_of_another_form() -> None:
    """`mine` has seen digits' official training set; `own` has the same images, all in one training set, in colour."""
    weigh()
    images = open_dataset(Path("data/digits"), "digits")
    keys = sample_keys(images, np.arange(300))
    import_weights("vit_digits", Path("w.pth"), weights_path("mine"), None, ("digits",), None, {"digits": keys})
    assert run(mode="pretrained")["fitted_on"] == "official training set"
    Path("data/own").mkdir()
    order = np.random.default_rng(0).permutation(len(images))
    samples = [Sample(encode_png(images.pixels(i).repeat(3, axis=2)), f"{i}.png", int(images.labels[i])) for i in order]
    write_images(Path("data/own/train-00000-of-00001.parquet"), samples, images.classes)
    with pytest.raises(
        UsageError, match=r"'mine' was fitted on samples that are held out here \(\d+ of \d+ in predictor"
    ):
        run("pooled", mode="pretrained", dataset="own")


def test_what_weights_have_not_seen_of_a_training_set_is_held_out_of_it() -> None:
    weigh()
    images = open_dataset(Path("data/digits"), "digits")
    seen = np.arange(0, 300, 2)
    keys = {"digits": sample_keys(images, seen)}
    import_weights("vit_digits", Path("w.pth"), weights_path("mine"), None, ("digits",), None, keys)
    described = run("never_seen", mode="pretrained", share=1.0)
    assert described["fitted_on"] == seen.tolist()
    splits = read_table(Path("artifacts/small/prepare/splits.parquet"))
    ids, split = splits["sample_id"].to_numpy(), np.array(splits["split"].to_pylist())
    assert ids[split == "train"].tolist() == seen.tolist()
    for name in ("predictor", "validation"):
        assert (ids[split == name] % 2 == 1).all() and (ids[split == name] < 300).all()
    assert (ids[split == "test"] >= 300).all()
    assert set(read_json(OUT / "metrics.json")["accuracy"]) == {"validation", "test"}
    with pytest.raises(UsageError, match="'mine' was fitted on samples that are held out here"):
        run("test", mode="pretrained")
    weigh()  # by name alone
    with pytest.raises(UsageError, match="which training samples the weights have seen is not known"):
        run("never_seen", mode="pretrained")


def test_copies_of_samples_that_are_not_held_out_do_not_count(capsys: pytest.CaptureFixture[str]) -> None:
    weigh()
    train, test = (Path("data/digits") / f"{name}-00000-of-00001.parquet" for name in ("train", "test"))
    pq.write_table(pa.concat_tables([pq.read_table(test), pq.read_table(train).slice(0, 3)]), test)
    images = open_dataset(Path("data/digits"), "digits")
    keys = {"digits": sample_keys(images, np.arange(300))}
    import_weights("vit_digits", Path("w.pth"), weights_path("mine"), None, ("digits",), None, keys)
    assert run(mode="pretrained", share=1.0)["fitted_on"] == "official training set"
    assert "held-out samples that equal others of data/digits" in capsys.readouterr().out


def test_weights_that_nobody_knows_the_origin_of_stay_so_when_they_are_trained_on() -> None:
    weigh(trained_on=None)
    run("test", mode="finetune", epochs=1)
    assert taken("own").trained_on is None
    with pytest.raises(UsageError, match="'own' do not say what they were trained on"):
        run("pooled", mode="pretrained", weights="own", dataset="digits")


def test_pretrained_weights_that_have_seen_none_of_it_were_fitted_on_nothing_here() -> None:
    weigh(trained_on=("mnist",))
    assert run("pooled", mode="pretrained")["fitted_on"] == []


@pytest.mark.parametrize("classes", [10, 1000])
def test_finetuning_starts_from_the_weights_with_a_new_head_for_other_classes(classes: int) -> None:
    state = weigh(classes, trained_on=())
    described = run("test", mode="finetune", trained_blocks=1, learning_rate=1e-4, warmup_epochs=0.0)
    splits = read_table(Path("artifacts/small/prepare/splits.parquet"))
    train = np.array(splits["split"].to_pylist()) == "train"
    assert described["fitted_on"] == splits["sample_id"].to_numpy()[train].tolist()
    assert max(described["fitted_on"]) < 300
    loaded = load_backbone(OUT)
    assert loaded.num_classes == 10
    for name, value in loaded.state_dict().items():
        if not name.startswith(("blocks.7", "norm", "head")):
            assert torch.equal(value, state[name])
    assert not torch.equal(loaded.state_dict()["blocks.7.mlp.fc1.weight"], state["blocks.7.mlp.fc1.weight"])
    near = classes == 10 and torch.allclose(loaded.state_dict()["head.weight"], state["head.weight"], atol=0.01)
    assert near == (classes == 10)
    assert read_table(OUT / "history.parquet").num_rows == 2


@pytest.mark.parametrize("classes", [10, 1000])
def test_training_of_the_whole_network_may_begin_with_weights(classes: int) -> None:
    state = weigh(classes, trained_on=())
    described = run("test", mode="train", learning_rate=1e-5, warmup_epochs=0.0, epochs=1)
    assert described["training"] == {
        "device": "cpu", "drawn": False, "images": len(described["fitted_on"]), "products": "fp32",
    }  # fmt: skip
    for name, value in load_backbone(OUT).state_dict().items():
        if not name.startswith("head"):
            assert not torch.equal(value, state[name]) and torch.allclose(value, state[name], atol=1e-3), name
    near = classes == 10 and torch.allclose(
        load_backbone(OUT).state_dict()["head.weight"], state["head.weight"], atol=1e-3
    )
    assert near == (classes == 10)
    assert taken("own").seen == {"digits": len(described["fitted_on"])}


def test_a_linear_probe_is_the_same_each_time_and_changes_the_head_alone() -> None:
    state = weigh(trained_on=())
    digests = []
    for _ in range(2):
        run("test", mode="linear_probe", learning_rate=0.01, warmup_epochs=0.0)
        digests.append([file_digest(path) for path in sorted(OUT.iterdir())])
    assert digests[0] == digests[1]
    loaded = load_backbone(OUT).state_dict()
    assert [name for name, value in loaded.items() if not torch.equal(value, state[name])] == [
        "head.weight",
        "head.bias",
    ]


def test_wrong_settings_are_refused_in_one_line() -> None:
    weigh(trained_on=("digits",))
    for settings, reason in (
        ({"evaluation_set": "test", "mode": "finetune"}, "have seen the official training set of digits"),
        ({"evaluation_set": "pooled", "mode": "pretrained"}, "evaluation_set must be 'held_out'; got 'pooled'"),
        ({"evaluation_set": "test", "mode": "train"}, "have seen the official training set of digits"),
        ({"mode": "finetune", "weights": None}, "mode finetune needs weights"),
        ({"mode": "pretrained", "trained_blocks": 1}, "trained_blocks is for mode finetune"),
        ({"mode": "finetune", "trained_blocks": 9}, "backbone.trained_blocks: 9; vit_digits has 8 blocks"),
        ({"mode": "finetune", "kwargs": {"num_classes": 7}}, "num_classes: 7; the data set has 10 classes"),
    ):
        with pytest.raises(UsageError, match=reason) as raised:
            run(**settings)
        assert "\n" not in str(raised.value)
    weigh(1000)
    with pytest.raises(
        UsageError, match="'mine' has a head for 1000 classes, the data set 10 classes; valid: finetune"
    ):
        run(mode="pretrained")
    assert not OUT.exists()
