"""Configs, presets and ingredients: what they refuse, and that the experiment's block has all of them."""

import pytest

from quee.errors import UsageError
from quee.precision import Precision
from quee.settings.quantize import INGREDIENTS, PRESETS, QuantizationConfig, Quantize


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_config_and_names_its_precision(preset: str) -> None:
    config = QuantizationConfig("w4a4", preset, stem="w8a8")
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
    assert config.to_json() == QuantizationConfig("w4a4", "minmax").to_json()


def test_unknown_names_and_values_are_answered_with_the_valid_ones() -> None:
    with pytest.raises(UsageError, match="unknown preset 'quick'.*fast"):
        QuantizationConfig("w4a4", "quick")
    with pytest.raises(UsageError, match="fold: unknown key 'fold'.*fold_norms"):
        QuantizationConfig("w4a4", fold=True)
    with pytest.raises(UsageError, match="softmax: Input should be 'uniform' or 'log'; got 'linear'"):
        QuantizationConfig(Precision("w4a4"), softmax="linear")
    with pytest.raises(UsageError, match="rows: Input should be greater than or equal to 1; got 0"):
        QuantizationConfig(Precision("w4a4"), rows=0)
    with pytest.raises(UsageError, match="unknown precision 'w9a9'"):
        QuantizationConfig("w9a9")
    with pytest.raises(UsageError, match="unknown ingredient 'folding'"):
        QuantizationConfig(Precision("w4a4")).without("folding")


def test_an_experiments_block_means_what_its_preset_and_its_own_settings_say() -> None:
    settings = Quantize(preset="mse", ridge=True, stem="w8a8", layers={"blocks.*": "w4a8"}, mixed=True)
    config = QuantizationConfig.of_settings("w3a3", settings)
    assert config == QuantizationConfig("w3a3", "mse", ridge=True, stem="w8a8", layers={"blocks.*": "w4a8"})
    assert (config.ridge, config.rounding, config.ridge_strength) == (True, "nearest", 0.01)


def test_settings_that_are_not_given_stay_null_and_mean_the_presets() -> None:
    written = Quantize(preset="repq", ridge=True).model_dump(mode="json")
    assert {name for name, value in written.items() if value is not None} == {
        "preset", "ridge", "path_aware", "mixed", "seed",
    }  # fmt: skip
    assert Quantize(**written) == Quantize(preset="repq", ridge=True)
