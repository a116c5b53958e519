"""One rule for budgets at every door: the same values are taken and refused, with the same words."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from endpoint import Endpoint, serving
from image_files import encoded

from quee.budgets import LARGEST, TOO_LARGE
from quee.cli.main import main
from quee.errors import QueeError
from quee.runtime import AdaptiveClassifier, Options
from quee.settings.block import refusal
from quee.settings.bundle import Bundle

Ask = Callable[[Any], str]
"""What a door says of a budget; empty where it takes it."""
DOORS = ("Options", "predict", "stream", "settings", "quee predict", "form", "JSON", "protocol")
COMMA = "write the number with a point: 0.2"
IMAGE = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)


@pytest.fixture(scope="module")
def running(bundle: Path):
    with serving(bundle, control=True) as endpoint:
        yield endpoint


@pytest.fixture
def doors(
    classifier: AdaptiveClassifier, bundle: Path, running: Endpoint, tmp_path: Path, capsys: pytest.CaptureFixture
) -> dict[str, Ask]:
    image = encoded(IMAGE[0], "PNG")
    (tmp_path / "image.png").write_bytes(image)

    def refused(act: Callable[[Any], Any]) -> Ask:
        def ask(value: Any) -> str:
            try:
                act(value)
            except QueeError as error:
                return str(error)
            return ""

        return ask

    def settings(value: Any) -> str:
        from pydantic import ValidationError

        try:
            Bundle.model_validate({"budget": value})
        except ValidationError as error:
            return refusal(error, Bundle)
        return ""

    def command(value: Any) -> str:
        capsys.readouterr()
        with suppress(SystemExit):
            main(
                [
                    "predict",
                    str(bundle),
                    str(tmp_path / "image.png"),
                    "--engine",
                    "torch",
                    "--json",
                    f"--budget={value}",
                ]
            )
        out, err = capsys.readouterr()
        return "" if out else err

    def said(answer: tuple[int, Any]) -> str:
        status, body = answer
        assert status in (200, 400), body
        return body.get("error", "")

    def protocol(value: Any) -> str:
        tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 8, 8], "data": IMAGE.ravel().tolist()}
        path = f"/v2/models/{running.service.current.name}/infer"
        return said(running.post(path, {"inputs": [tensor], "parameters": {"budget": value}}))

    def as_json(value: Any) -> str:
        from base64 import b64encode

        return said(running.post("/v1/classify", {"image": b64encode(image).decode(), "budget": value}))

    return {
        "Options": refused(lambda value: Options(budget=value)),
        "predict": refused(lambda value: classifier.predict(IMAGE, budget=value)),
        "stream": refused(lambda value: classifier.stream(budget=value)),
        "settings": settings,
        "quee predict": command,
        "form": lambda value: said(running.classify(image, budget=value)),
        "JSON": as_json,
        "protocol": protocol,
    }


@pytest.mark.parametrize("door", DOORS)
def test_every_door_takes_and_refuses_the_same_budgets(doors: dict[str, Ask], door: str) -> None:
    ask = doors[door]
    assert [ask(value) for value in (0.2, 1.0, LARGEST)] == ["", "", ""]
    assert TOO_LARGE in ask(LARGEST * 1.001) and TOO_LARGE in ask(1e9)
    for value in (0.0, -1.0, float("nan"), float("inf"), "x", ""):
        assert ask(value), value
    said = ask("0,2")
    assert COMMA in said and "'0,2'" in said and "budget" in said


def test_a_limit_per_image_follows_the_same_rule() -> None:
    with pytest.raises(QueeError, match="max_cost=1000.0: give at most 100"):
        Options(max_cost=1000.0)
    Options(trade_off=1000.0)  # no cost
    Options(latency_ms=1000.0)


@pytest.mark.parametrize("written", ['{"image": "", "budget": 0,2}', '{"parameters": {"budget": 1,5, "max_cost": 1}}'])
def test_a_decimal_comma_that_breaks_json_is_told(running: Endpoint, written: str) -> None:
    status, answer = running.post("/v1/classify", written.encode())
    assert status == 400 and answer["error"].endswith("numbers have a decimal point: 0.2, not 0,2")


def test_json_that_is_broken_elsewhere_is_not_told_of_commas(running: Endpoint) -> None:
    for body in (b'{"image": "a", }', b'{"a": [1,2, }', json.dumps({"image": "x"}).encode()[:-1]):
        assert "decimal" not in running.post("/v1/classify", body)[1]["error"]


@pytest.mark.parametrize("path", ["/v1/classify", "/v2/models/{}/infer"])
def test_an_option_in_the_address_is_refused_instead_of_overlooked(running: Endpoint, path: str) -> None:
    status, answer = running.post(f"{path.format(running.service.current.name)}?budget=0.1&trace=1", {})
    assert (status, answer["error"]) == (400, "budget is given in the address: give it in the request's body")
