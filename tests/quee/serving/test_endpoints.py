"""Answers of the endpoints equal the bundle's answers offline."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
from endpoint import Endpoint, form, serving, wait_for
from image_files import encoded, noise

from quee.errors import UsageError
from quee.runtime.operating import Options
from quee.serving.settings import Settings

MODEL = "quee-digits"


def path_of(endpoint: Endpoint, verb: str = "/infer") -> str:
    return f"/v2/models/{endpoint.service.current.name}{verb}"


def request(pixels: np.ndarray, **parameters: object) -> dict[str, object]:
    tensor = {"name": "images", "datatype": "UINT8", "shape": list(pixels.shape), "data": pixels.ravel().tolist()}
    return {"id": "7", "inputs": [tensor], "parameters": parameters}


def columns(answer: dict) -> dict[str, list]:
    return {output["name"]: output["data"] for output in answer["outputs"]}


def test_health_and_metadata(endpoint: Endpoint) -> None:
    assert endpoint.get("/v2/health/live") == {"live": True}
    assert endpoint.get("/v2/health/ready") == {"ready": True}
    assert endpoint.get("/v2")["extensions"] == ["binary_tensor_data"]
    assert endpoint.get(path_of(endpoint, "/ready"))["ready"]
    found = endpoint.get(path_of(endpoint, ""))
    assert found["versions"] == [endpoint.service.current.version]
    assert {tensor["name"] for tensor in found["inputs"]} == {"images", "encoded"}
    assert endpoint.get(path_of(endpoint, f"/versions/{found['versions'][0]}")) == found


@pytest.mark.parametrize(
    "options", [{}, {"budget": 0.3}, {"trade_off": 0.05}, {"max_cost": 0.4}, {"accuracy_loss": 3.0}]
)
def test_inference_answers_as_the_bundle_does(endpoint: Endpoint, classifier, images, options) -> None:
    pixels = images[0][:20]
    status, answer = endpoint.post(path_of(endpoint), request(pixels, **options))
    assert status == 200
    found, offline = columns(answer), classifier.route(pixels, **options)
    assert found["label"] == offline.label.tolist()
    assert found["path"] == offline.path
    assert found["cost"] == offline.cost.tolist()
    assert np.allclose(found["probabilities"], offline.probabilities.ravel(), atol=1e-7)
    assert answer["id"] == "7"
    assert answer["parameters"]["model_digest"] == endpoint.service.current.digest
    assert (answer["parameters"]["policy"], answer["parameters"]["decided_by"]) == ("fitted_q", "fitted_q")


def test_binary_tensors_come_back_in_order(endpoint: Endpoint, classifier, images) -> None:
    pixels = images[0][:5]
    asked = request(pixels)
    asked["inputs"][0] |= {"parameters": {"binary_data_size": pixels.nbytes}}
    del asked["inputs"][0]["data"]
    asked["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in ("path", "cost", "label")]
    head = json.dumps(asked).encode()
    headers = {"inference-header-content-length": str(len(head))}
    status, said, body = endpoint.ask("POST", path_of(endpoint), head + pixels.tobytes(), headers)
    assert status == 200
    length = int(said["inference-header-content-length"])
    described, rest, blobs = json.loads(body[:length]), body[length:], {}
    for output in described["outputs"]:
        size = output["parameters"]["binary_data_size"]
        blobs[output["name"]], rest = rest[:size], rest[size:]
    offline = classifier.route(pixels)
    assert rest == b""
    assert np.array_equal(np.frombuffer(blobs["cost"], "<f8"), offline.cost)
    assert np.array_equal(np.frombuffer(blobs["label"], "<i8"), offline.label)
    assert blobs["path"] == b"".join(len(p).to_bytes(4, "little") + p.encode() for p in offline.path)


def test_files_and_base64_answer_as_the_bundle_does(endpoint: Endpoint, classifier, images) -> None:
    files = [encoded(pixels, "PNG") for pixels in images[0][:4]]
    offline = classifier.route(files, budget=0.3)
    status, answer = endpoint.classify(*files, budget=0.3)
    text = {"images": [base64.b64encode(file).decode() for file in files], "budget": 0.3}
    assert (status, answer) == endpoint.post("/v1/classify", text)
    assert [result["path"] for result in answer["results"]] == offline.path
    assert [result["class"] for result in answer["results"]] == [classifier.classes[i] for i in offline.label]
    assert [result["cost"] for result in answer["results"]] == offline.cost.tolist()
    assert answer["budget_met"]


def test_an_explanation_follows_the_path(endpoint: Endpoint, images) -> None:
    _, answer = endpoint.classify(encoded(images[0][3], "PNG"), budget=0.5, explain="true")
    (result,) = answer["results"]
    assert "-".join(gate["precision"] for gate in result["gates"]) == result["path"]
    assert result["gates"][-1]["cost"] == result["cost"]
    classes = endpoint.service.current.classifier.classes
    for said in (result, *result["gates"]):
        assert isinstance(said["label"], int) and classes[said["label"]] == said["class"]
    assert {key: result["gates"][-1][key] for key in ("label", "class")} == {
        key: result[key] for key in ("label", "class")
    }
    assert result["static"]["w8a8"] == 1.0


def test_an_unreachable_budget_is_served_and_says_so(endpoint: Endpoint, images) -> None:
    before = endpoint.metric("quee_budget_unmet_total")
    status, answer = endpoint.classify(encoded(images[0][0], "PNG"), budget=1e-4)
    assert status == 200
    assert not answer["budget_met"]
    assert endpoint.metric("quee_budget_unmet_total") == before + 1


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"budget": 0}, "above 0"),
        ({"budget": -1}, "above 0"),
        ({"budget": 0.3, "trade_off": 0.1}, "not both"),
        ({"trade_off": -0.1}, "0 or more"),
        ({"accuracy_loss": -0.1}, "0 or more"),
        ({"accuracy_loss": 1, "budget": 0.3}, "not both"),
        ({"accuracy_loss": 1, "certified": True}, "no accuracy loss against the float network is certified"),
        ({"max_cost": 0}, "above 0"),
    ],
)
def test_budgets_out_of_range_are_refused(endpoint: Endpoint, images, parameters, reason) -> None:
    status, answer = endpoint.post(path_of(endpoint), request(images[0][:1], **parameters))
    assert status == 400
    assert reason in answer["error"]


@pytest.mark.parametrize("value", [b'{"parameters": {"budget": NaN}}', b'{"inputs": [], "inputs": []}', b"[" * 100_000])
def test_hostile_json_is_refused(endpoint: Endpoint, value: bytes) -> None:
    status, answer = endpoint.post(path_of(endpoint), value)
    assert status == 400
    assert answer["error"]


def test_a_file_cut_short_is_refused_by_name(endpoint: Endpoint) -> None:
    whole = encoded(noise(0, 60, 60), "PNG")
    status, answer = endpoint.classify(whole[: len(whole) // 2])
    assert status == 400
    assert "image 0" in answer["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/models/other", 404),
        ("POST", "/v2/models/other/infer", 404),
        ("GET", "/nowhere", 404),
        ("GET", "/page/../app.py", 404),
        ("GET", "/page/..%2Fapp.py", 404),
        ("GET", "/page/style.css%00", 404),
        ("GET", "/v1/classify", 405),
        ("GET", "/v1/examples/0", 404),
        ("GET", "/v1/examples/x", 422),
        ("POST", "/v1/admin/reload", 403),
    ],
)
def test_what_is_not_there_is_refused_as_json(endpoint: Endpoint, method: str, path: str, status: int) -> None:
    found, _, body = endpoint.ask(method, path, b"{}" if method == "POST" else None)
    assert found == status
    assert json.loads(body)["error"] not in ("", "Not Found", "Method Not Allowed")


def test_metrics_count_what_was_done(endpoint: Endpoint, classifier, images) -> None:
    names = {
        "requests": 'quee_requests_total{code="200",route="/v1/classify"}',
        "refused": 'quee_rejected_total{reason="image"}',
        "spent": "quee_cost_spent_total",
        "asked": "quee_cost_asked_total",
        "bitflops": "quee_bitflops_total",
    }
    before = {key: endpoint.metric(name) for key, name in names.items()}
    offline = classifier.route(images[0][:3], budget=0.3)
    endpoint.classify(*[encoded(pixels, "PNG") for pixels in images[0][:3]], budget=0.3)
    endpoint.classify(b"no image")
    after = {key: endpoint.metric(name) - before[key] for key, name in names.items()}
    cost = float(offline.cost.sum())
    unit = endpoint.service.current.unit_bitflops
    assert (after["requests"], after["refused"]) == (1, 1)
    assert after["spent"] == pytest.approx(cost)
    assert after["asked"] == pytest.approx(0.9)
    assert after["bitflops"] == pytest.approx(cost * unit, rel=1e-6)
    assert endpoint.metric(f'quee_images_total{{path="{offline.path[0]}"}}') >= 1
    assert endpoint.metric("quee_queue_images") == 0
    digest = endpoint.service.current.digest
    assert endpoint.metric(f'quee_model{{digest="{digest}",name="{endpoint.service.current.name}"}}') == 1


def test_the_page_needs_nothing_from_elsewhere(endpoint: Endpoint) -> None:
    for path in ("/", "/page/docs.html", "/page/page.js", "/page/path.js", "/page/docs.js", "/page/style.css"):
        status, headers, body = endpoint.ask("GET", path)
        assert status == 200
        assert "default-src 'self'" in headers["content-security-policy"]
        assert b"http://" not in body.replace(b"http://www.w3.org/2000/svg", b"")
        assert b"https://" not in body


def test_the_description_covers_every_endpoint(endpoint: Endpoint) -> None:
    paths = endpoint.get("/openapi.json")["paths"]
    assert "/v2/models/{name}/infer" in paths
    assert "multipart/form-data" in paths["/v1/classify"]["post"]["requestBody"]["content"]
    assert "requestBody" in paths["/v2/models/{name}/versions/{version}/infer"]["post"]


def test_the_description_holds_every_model_that_it_names(endpoint: Endpoint) -> None:
    described = endpoint.get("/openapi.json")
    named = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(described)))
    assert {"InferenceRequest", "InferenceResponse", "Parameters", "Classify", "Reload", "Refusal"} <= named
    assert named <= set(described["components"]["schemas"])
    assert described["components"]["schemas"]["Classify"]["properties"]["budget"]["description"]


@pytest.mark.parametrize("default", [{"budget": 0.35}, {"accuracy_loss": 3.0}])
def test_the_server_s_own_default_holds_for_requests_that_name_nothing(
    bundle: Path, classifier, images, default
) -> None:
    pixels = images[0][:20]
    with serving(bundle, default=Options(**default), control=False) as endpoint:
        for asked, applied in (({}, default), ({"budget": 0.2}, {"budget": 0.2})):
            _, answer = endpoint.post(path_of(endpoint), request(pixels, **asked))
            found, offline = columns(answer), classifier.route(pixels, **applied)
            assert (found["path"], found["cost"]) == (offline.path, offline.cost.tolist())
            assert answer["parameters"].get("budget") == applied.get("budget")
        assert endpoint.get("/v1/model")["budget"] == default.get("budget", classifier.budget)


def test_examples_are_shown(bundle: Path, images, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "one.png").write_bytes(encoded(images[0][0], "PNG"))
    with serving(bundle, examples=tmp_path) as endpoint:
        assert endpoint.get("/v1/model")["examples"] == ["one"]
        status, headers, body = endpoint.ask("GET", "/v1/examples/0")
        assert (status, headers["content-type"]) == (200, "image/png")
        assert body == (tmp_path / "one.png").read_bytes()


def test_a_token_guards_all_but_probes_and_the_pages_files(bundle: Path, images) -> None:
    token = "a token of some length"
    with pytest.raises(UsageError):
        Settings(token=token)
    token = token.replace(" ", "-")
    form_of = form(encoded(images[0][0], "PNG"))
    kind = {"content-type": "multipart/form-data; boundary=frontier"}
    with serving(bundle, token=token) as endpoint:
        for path in ("/v1/model", "/metrics", "/v2", "/openapi.json", "/nowhere"):
            assert endpoint.ask("GET", path)[0] == 401
            assert endpoint.ask("GET", path, headers={"authorization": "Bearer wrong"})[0] == 401
        for path in ("/", "/page/page.js", "/v2/health/live", "/v2/health/ready"):
            assert endpoint.ask("GET", path)[0] == 200
        status, headers, _ = endpoint.ask("POST", "/v1/classify", form_of, kind)
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        bearer = {"authorization": f"bearer {token}"}
        assert endpoint.ask("POST", "/v1/classify", form_of, {**kind, **bearer})[0] == 200
        wait_for(lambda: endpoint.service.admitted == 0)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"host": "0.0.0.0"}, "token"),
        ({"host": "10.1.2.3"}, "token"),
        ({"token": "short"}, "16"),
        ({"queue": 0}, "queue=0"),
        ({"deadline": 0.0}, "deadline"),
        ({"deadline": float("nan")}, "deadline"),
        ({"port": 70_000}, "port"),
        ({"max_body": 1 << 40}, "bodies"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Settings(**settings)
