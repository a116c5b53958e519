"""Training is seeded, and a resumed run equals an undisturbed one bit by bit."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from quee.errors import UsageError
from quee.network import training
from quee.network.architectures import create_backbone
from quee.network.base import SegmentedBackbone
from quee.network.schedule import Stretch
from quee.network.training import (
    COLUMNS,
    History,
    forward_function,
    freeze,
    native_bf16,
    parameter_groups,
    predict_logits,
    train_backbone,
    uses_bf16,
)
from quee.settings.backbone import Backbone
from quee.work.progress import Bar

SAMPLES, BATCH = 64, 16
Batch = tuple[np.ndarray, Tensor, Tensor]


def new_backbone(**kwargs: float) -> SegmentedBackbone:
    torch.manual_seed(0)
    return create_backbone("vit_digits", **{"embed_dim": 16, "depth": 2, "num_classes": 3, **kwargs}, gates=(1, 2))


def settings(**values: object) -> Backbone:
    base = {"name": "vit_digits", "epochs": 4, "batch_size": BATCH, "learning_rate": 3e-3, "warmup_epochs": 1.0}
    return Backbone.model_validate({**base, **values})


def data() -> tuple[Tensor, Tensor]:
    """Three classes that differ in brightness."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(SAMPLES) % 3
    return torch.randn(SAMPLES, 1, 8, 8, generator=random) * 0.5 + labels[:, None, None, None].float() - 1, labels


def batches(stretch: Stretch) -> Iterator[Batch]:
    images, labels = data()
    order = np.random.default_rng([7, stretch.epoch]).permutation(SAMPLES)
    for rows in order.reshape(-1, BATCH)[stretch.first : stretch.last]:
        yield rows, images[rows], labels[rows]


def accuracy(backbone: SegmentedBackbone) -> float:
    images, labels = data()
    with torch.inference_mode():
        return float((backbone(images).argmax(dim=1) == labels).float().mean())


class KilledError(Exception):
    """Stands for anything that ends a run."""


Source = Callable[[Stretch], Iterator[Batch]]


def killed_in(epoch: int) -> Source:
    def until(stretch: Stretch) -> Iterator[Batch]:
        for index, batch in enumerate(batches(stretch), stretch.first):
            if stretch.epoch == epoch and index == 2:
                raise KilledError
            yield batch

    return until


def train(
    checkpoint: Path, chosen: Backbone, source: Source = batches, **kwargs: float
) -> tuple[SegmentedBackbone, History]:
    backbone = new_backbone(**kwargs)
    return backbone, train_backbone(backbone, chosen, source, SAMPLES, accuracy, checkpoint)


def equal(a: SegmentedBackbone, b: SegmentedBackbone) -> bool:
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


VARIANTS = {
    "adamw": {},
    "sgd": {"optimizer": "sgd", "learning_rate": 0.05},
    "everything": {"ema": 0.8, "label_smoothing": 0.1, "augmentation": {"mixup": 0.4, "cutmix": 1.0}, "seed": 5},
}


@pytest.mark.parametrize("epoch", [0, 1, 3])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_is_bit_identical_to_an_undisturbed_one(variant: str, epoch: int, tmp_path: Path) -> None:
    chosen = settings(**VARIANTS[variant])
    undisturbed, history = train(tmp_path / "a", chosen, drop_path_rate=0.3)
    with pytest.raises(KilledError):
        train(tmp_path / "b", chosen, killed_in(epoch), drop_path_rate=0.3)
    assert (tmp_path / "b").exists() == (epoch > 0)
    torch.manual_seed(99)  # a new process does not have the old one's generator
    resumed, resumed_history = train(tmp_path / "b", chosen, drop_path_rate=0.3)
    assert equal(resumed, undisturbed)
    assert resumed_history.rows == history.rows


def test_a_run_that_was_complete_is_read_back(tmp_path: Path) -> None:
    first, history = train(tmp_path / "a", settings(ema=0.8))

    def none(stretch: Stretch) -> Iterator[Batch]:
        raise AssertionError(f"{stretch} is run again")

    again, read = train(tmp_path / "a", settings(ema=0.8), none)
    assert equal(again, first)
    assert read.rows == history.rows


def test_runs_are_seeded(tmp_path: Path) -> None:
    chosen = settings(augmentation={"mixup": 0.4})
    first, _ = train(tmp_path / "a", chosen)
    assert equal(first, train(tmp_path / "b", chosen)[0])
    assert not equal(first, train(tmp_path / "c", chosen.model_copy(update={"seed": 1}))[0])


def test_training_learns_and_tells_its_history(tmp_path: Path) -> None:
    backbone, history = train(tmp_path / "a", settings(epochs=12, learning_rate=1e-2))
    columns = history.columns()
    assert tuple(columns) == COLUMNS
    assert columns["epoch"].tolist() == list(range(12))
    assert columns["images"].tolist() == [SAMPLES * epoch for epoch in range(1, 13)]
    assert set(columns["side"]) == {8}
    assert columns["loss"][-1] < 0.5 * columns["loss"][0]
    assert accuracy(backbone) == pytest.approx(columns["validation_accuracy"][-1])
    assert accuracy(backbone) > 0.9
    assert not backbone.training
    assert not any(p.requires_grad for p in backbone.parameters())


def test_an_average_over_weights_lags_behind_them(tmp_path: Path) -> None:
    start = new_backbone().requires_grad_(False)
    plain, averaged = train(tmp_path / "a", settings())[0], train(tmp_path / "b", settings(ema=0.99))[0]

    def moved(backbone: SegmentedBackbone) -> float:
        return sum(float((p - q).norm()) for p, q in zip(backbone.parameters(), start.parameters(), strict=True))

    assert 0 < moved(averaged) < 0.5 * moved(plain)


def test_every_weight_moves(tmp_path: Path) -> None:
    before, after = new_backbone().state_dict(), train(tmp_path / "a", settings(epochs=2))[0].state_dict()
    assert not [name for name in before if torch.equal(before[name], after[name])]


def test_weight_matrices_decay_and_biases_and_normalisations_do_not() -> None:
    backbone = new_backbone()
    decay = {}
    for group in parameter_groups(backbone, settings(weight_decay=0.3, learning_rate=0.01)):
        assert group["lr"] == 0.01
        decay.update({id(parameter): group["weight_decay"] for parameter in group["params"]})
    assert {name: decay[id(p)] for name, p in backbone.named_parameters()} == {
        name: 0.3 if p.dim() > 1 else 0.0 for name, p in backbone.named_parameters()
    }
    norms_and_biases = [p for name, p in backbone.named_parameters() if "norm" in name or name.endswith("bias")]
    assert len(norms_and_biases) > 10
    assert all(decay[id(parameter)] == 0.0 for parameter in norms_and_biases)


def test_logits_are_gathered_in_order() -> None:
    backbone = new_backbone()
    whole = Stretch(0, 0, SAMPLES // BATCH, 0)
    logits, labels = predict_logits(backbone, batches(whole))
    rows = np.concatenate([rows for rows, _, _ in batches(whole)])
    images, expected = data()
    assert np.array_equal(labels, expected[rows].numpy())
    with torch.inference_mode():
        assert np.allclose(logits, backbone(images[rows]).numpy(), atol=1e-5)


FINETUNE = {
    "mode": "finetune",
    "weights": "mine",
    "optimizer": "sgd",
    "learning_rate": 0.05,
    "transfer_ratio": 0.1,
    "min_learning_rate": 0.002,
    "warmup_epochs": 0.0,
    "epochs": 3,
}


def test_weights_taken_over_learn_at_a_fraction_of_the_heads_rate() -> None:
    backbone = new_backbone()
    rate = {}
    for group in parameter_groups(backbone, settings(**FINETUNE)):
        rate.update({id(parameter): group["lr"] for parameter in group["params"]})
    for name, parameter in backbone.named_parameters():
        assert rate[id(parameter)] == pytest.approx(0.05 if name.startswith("head") else 0.005)


@pytest.mark.parametrize("bf16", [False, True])
def test_finetuning_of_last_blocks_resumes_bit_identical_and_leaves_the_others(bf16: bool, tmp_path: Path) -> None:
    chosen = settings(**FINETUNE, trained_blocks=1)

    def finetuned(checkpoint: Path, source: Source) -> tuple[SegmentedBackbone, History]:
        backbone = new_backbone(drop_path_rate=0.3, proj_drop_rate=0.0)
        freeze(backbone, chosen.trained_blocks)
        return backbone, train_backbone(backbone, chosen, source, SAMPLES, accuracy, checkpoint, bf16)

    undisturbed, history = finetuned(tmp_path / "a", batches)
    with pytest.raises(KilledError):
        finetuned(tmp_path / "b", killed_in(2))
    resumed, resumed_history = finetuned(tmp_path / "b", batches)
    assert equal(resumed, undisturbed)
    assert resumed_history.rows == history.rows
    before, after = new_backbone().state_dict(), undisturbed.state_dict()
    moved = {
        name.partition(".")[0] + "." + name.split(".")[1] for name in before if not equal_tensors(before, after, name)
    }
    assert moved == {"blocks.1", "norm.weight", "norm.bias", "head.weight", "head.bias"}
    rates = [row["learning_rate"] for row in history.rows]
    assert rates == sorted(rates, reverse=True)
    assert 0.002 < rates[-1] < 0.006


def equal_tensors(a: dict[str, Tensor], b: dict[str, Tensor], name: str) -> bool:
    return torch.equal(a[name], b[name])


def test_more_blocks_than_there_are_cannot_be_trained() -> None:
    with pytest.raises(UsageError, match=r"backbone.trained_blocks: 3; vit_digits has 2 blocks"):
        freeze(new_backbone(), 3)


def test_fixed_position_tables_and_random_features_stay_fixed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    kwargs = {"dim": 16, "heads": 2, "depth": 1, "img_size": 16, "num_classes": 3, "in_chans": 1}
    backbone = create_backbone("t2t_vit_7", **kwargs)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}

    def images(stretch: Stretch) -> Iterator[Batch]:
        for rows, x, y in batches(stretch):
            yield rows, x.repeat(1, 1, 2, 2), y

    train_backbone(backbone, settings(epochs=1), images, SAMPLES, lambda _: 0.0, tmp_path / "a")
    still = [name for name, value in backbone.state_dict().items() if torch.equal(value, before[name])]
    assert still == ["pos_embed", "tokens_to_token.attention1.w", "tokens_to_token.attention2.w"]


def test_bf16_is_near_full_precision_and_spares_the_performers_exponentials() -> None:
    torch.manual_seed(0)
    backbone = create_backbone("t2t_vit_7", depth=1, img_size=32, num_classes=10)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    seen = []
    performer = backbone.get_submodule("tokens_to_token.attention1.key_features")
    performer.register_forward_hook(lambda _, inputs, output: seen.append(output.dtype))
    with torch.inference_mode():
        exact = forward_function(backbone)(images)
        fast = forward_function(backbone, True)(images)
    assert seen == [torch.float32, torch.float32]
    assert fast.dtype == torch.float32
    assert 0 < (fast - exact).norm() < 0.05 * exact.norm()


def test_progress_reckons_from_what_this_run_did_and_shows_the_speed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quee.work.progress.PLAIN_SECONDS", 0.0)
    train(tmp_path / "a", settings())
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("training vit_digits: 1/16, about ")
    assert "s left epoch 0 loss" in said[0]
    assert said[-1].endswith("images/s")
    assert "accuracy" in said[-1]
    bar = Bar("resumed", total=100, done=90)
    bar._start -= 10
    bar.advance(5)
    assert capsys.readouterr().err.startswith("resumed: 95/100, about 10 s left")


OTHERS = {
    "rate": {"learning_rate": 0.02},
    "epochs": {"epochs": 6},
    "seed": {"seed": 6},
}


@pytest.mark.parametrize("change", [*OTHERS, "torch"])
def test_a_checkpoint_of_other_settings_or_libraries_is_not_gone_on_with(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KilledError):
        train(tmp_path / "a", settings(), killed_in(2))
    if change == "torch":
        known = training.versions()
        monkeypatch.setattr(training, "versions", lambda: {**known, "torch": "0.0.1"})
    chosen = settings(**OTHERS.get(change, {}))
    seen = []

    def source(stretch: Stretch) -> Iterator[Batch]:
        seen.append(stretch.epoch)
        return batches(stretch)

    train(tmp_path / "a", chosen, source)
    assert seen == list(range(chosen.epochs or 0))
    assert "training begins anew" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_not_gone_on_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, _ = train(tmp_path / "a", settings())
    data = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(data[: len(data) // 2])
    assert equal(train(tmp_path / "a", settings())[0], whole)
    assert "training begins anew" in capsys.readouterr().err


T2T = {"dim": 16, "heads": 2, "depth": 1, "num_classes": 3, "in_chans": 1}
SMALL_FIRST = {"name": "t2t_vit_7", "epochs": None, "images": 160, "sizes": {16: 0.5, 32: 0.5}, "ema": 0.5}


def at_sizes(checkpoint: Path, stop: int | None = None) -> tuple[SegmentedBackbone, History, list[tuple[int, ...]]]:
    """Train a T2T-ViT on small images first; `stop` is the stretch that is killed. Returns shapes of all batches too."""
    torch.manual_seed(0)
    backbone, shapes = create_backbone("t2t_vit_7", img_size=32, **T2T), []

    def images(stretch: Stretch) -> Iterator[Batch]:
        assert stretch.side is not None
        for rows, x, y in batches(stretch):
            if stop is not None and (stretch.epoch, stretch.side) == (stop, 32):
                raise KilledError
            shapes.append((*x.shape[:2], stretch.side, stretch.side))
            yield rows, torch.nn.functional.interpolate(x, stretch.side), y

    def validate(model: SegmentedBackbone) -> float:
        x, y = data()
        with torch.inference_mode():
            return float((model(torch.nn.functional.interpolate(x, model.input.size)).argmax(1) == y).float().mean())

    return backbone, train_backbone(backbone, settings(**SMALL_FIRST), images, SAMPLES, validate, checkpoint), shapes


def test_small_images_come_first_and_resuming_at_another_size_changes_no_bit(tmp_path: Path) -> None:
    undisturbed, history, shapes = at_sizes(tmp_path / "a")
    assert shapes == [(BATCH, 1, 16, 16)] * 5 + [(BATCH, 1, 32, 32)] * 5
    assert history.columns()["side"].tolist() == [16, 16, 32, 32]
    assert history.columns()["images"].tolist() == [64, 80, 128, 160]
    for stop in (1, 2):
        with pytest.raises(KilledError):
            at_sizes(tmp_path / f"b{stop}", stop)
        resumed, again, rest = at_sizes(tmp_path / f"b{stop}")
        assert equal(resumed, undisturbed) and again.rows == history.rows
        assert len(rest) < len(shapes)


def test_bf16_is_used_where_the_device_has_it_and_the_network_is_not_small(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, large = torch.device("cpu"), 24_000_000
    for capability in ("amx_bf16", "avx512_bf16"):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda name=capability: {name: True})
        assert uses_bf16("auto", cpu, large) and not uses_bf16("auto", cpu, 1_000_000)
        assert uses_bf16("bf16", cpu, 1_000_000) and not uses_bf16("none", cpu, large)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True})
    assert not native_bf16(cpu) and not uses_bf16("auto", cpu, large) and uses_bf16("bf16", cpu, large)
