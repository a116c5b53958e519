"""What is not installed names the extra that brings it, by the metadata of the installed package."""

import pytest

from quee.errors import QueeError
from quee.work import extras
from quee.work.extras import distributions, extra_of, missing_extra, require_package


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("torch", "train"),
        ("sklearn", "train"),
        ("ruamel", "train"),
        ("pyarrow", "parquet"),
        ("onnxruntime", "onnxruntime"),
        ("openvino", "openvino"),
        ("prometheus_client", "serve"),
        ("yaml", "pipeline"),
        ("distributed", "dask"),
        ("numpy", None),
        ("no_such_module", None),
    ],
)
def test_a_module_is_brought_by_the_first_extra_that_names_it(module: str, extra: str | None) -> None:
    assert extra_of(module) == extra


def test_an_extra_holds_those_that_it_takes_in() -> None:
    assert {"torch", "pyarrow"} <= distributions("train") <= distributions("pipeline")
    assert {"onnx", "onnxruntime", "openvino"} == distributions("engines")
    assert not distributions() & (distributions("train") | distributions("engines"))
    assert "quee" not in distributions("pipeline")


def test_an_import_that_fails_for_another_reason_is_no_missing_extra() -> None:
    assert missing_extra(ModuleNotFoundError("No module named 'nowhere'", name="nowhere"), "this") is None
    error = missing_extra(ModuleNotFoundError(name="torch.nn"), "quee.fit")
    assert str(error) == "quee.fit needs the package torch: pip install 'quee[train]'"
    assert "'quee[pipeline]'" in str(missing_extra(ModuleNotFoundError(name="torch"), "`quee plan`", "pipeline"))


def test_a_package_is_required_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    require_package("numpy", "this", "train")
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(QueeError, match=r"^this needs the package numpy: pip install 'quee\[train\]'$"):
        require_package("numpy", "this", "train")
