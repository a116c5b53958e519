"""Configs, presets and ingredients: what they refuse, and that the experiment's block knows them all."""

from typing import get_args

import pytest

from quee.errors import UsageError
from quee.precision import Precision
from quee.quantization import INGREDIENTS, PRESETS, QuantizationConfig
from quee.quantization.config import CHOICES, PLAIN
from quee.settings.experiment import Quantize


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_config_and_names_its_precision(preset: str) -> None:
    config = QuantizationConfig.of("w4a4", preset, stem="w8a8")
    assert config.precision == Precision("w4a4")
    assert config.stem == Precision("w8a8")
    assert config.to_json()["stem"] == "w8a8"


@pytest.mark.parametrize("ingredient", INGREDIENTS)
def test_every_ingredient_of_the_default_can_be_switched_off(ingredient: str) -> None:
    config = QuantizationConfig(Precision("w4a4"))
    assert config.without(ingredient) != config


def test_without_any_ingredient_the_default_is_plain_minmax() -> None:
    config = QuantizationConfig(Precision("w4a4"))
    for ingredient in INGREDIENTS:
        config = config.without(ingredient)
    assert config == QuantizationConfig.of("w4a4", "minmax")


def test_unknown_names_and_values_are_answered_with_the_valid_ones() -> None:
    with pytest.raises(UsageError, match="unknown preset 'quick'.*fast"):
        QuantizationConfig.of("w4a4", "quick")
    with pytest.raises(UsageError, match="unknown quantization setting 'fold'.*fold_norms"):
        QuantizationConfig.of("w4a4", fold=True)
    with pytest.raises(UsageError, match="softmax 'linear'; valid: uniform, log"):
        QuantizationConfig(Precision("w4a4"), softmax="linear")
    with pytest.raises(UsageError, match="rows 0; valid: from 1"):
        QuantizationConfig(Precision("w4a4"), rows=0)
    with pytest.raises(UsageError, match="unknown precision 'w9a9'"):
        QuantizationConfig.of("w9a9")
    with pytest.raises(UsageError, match="unknown ingredient 'folding'"):
        QuantizationConfig(Precision("w4a4")).without("folding")


def test_the_experiments_block_has_every_setting_with_the_same_choices() -> None:
    fields = set(QuantizationConfig.__dataclass_fields__) - {"precision", "samples", "rows"}
    assert fields <= set(Quantize.model_fields)
    for name, valid in {**CHOICES, "preset": tuple(PRESETS)}.items():
        kinds = {text for part in _literals(Quantize.model_fields[name].annotation) for text in part}
        assert kinds == set(valid), name
    settings = Quantize(preset="mse", ridge=True, stem="w8a8")
    assert QuantizationConfig.of_settings("w3a3", settings) == QuantizationConfig.of(
        "w3a3", "mse", ridge=True, stem="w8a8"
    )


def _literals(annotation: object) -> list[tuple[str, ...]]:
    strings = tuple(part for part in get_args(annotation) if isinstance(part, str))
    return [strings] if strings else [found for part in get_args(annotation) for found in _literals(part)]


def test_presets_that_are_plain_state_everything() -> None:
    assert set(PLAIN) == {key for name in INGREDIENTS for key in INGREDIENTS[name]}
