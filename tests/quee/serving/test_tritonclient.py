"""A client written with tritonclient's HTTP API."""

import numpy as np
import pytest
from endpoint import Endpoint
from image_files import encoded

pytestmark = pytest.mark.slow
triton = pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed (extra `clients`)")


@pytest.fixture
def client(endpoint: Endpoint):
    made = triton.InferenceServerClient(f"127.0.0.1:{endpoint.port}")
    yield made
    made.close()


def test_it_finds_server_and_model(client, endpoint: Endpoint) -> None:
    served = endpoint.service.current
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(served.name)
    assert client.is_model_ready(served.name, served.version)
    assert client.get_server_metadata()["name"] == "quee"
    assert client.get_model_metadata(served.name)["outputs"][0]["name"] == "label"


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("outputs", [None, ["label", "path", "probabilities"]])
def test_it_gets_the_bundles_answers(client, endpoint: Endpoint, classifier, images, binary: bool, outputs) -> None:
    pixels = images[0][:7]
    tensor = triton.InferInput("images", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels, binary_data=binary)
    wanted = outputs and [triton.InferRequestedOutput(name, binary_data=binary) for name in outputs]
    found = client.infer(endpoint.service.current.name, [tensor], outputs=wanted, parameters={"budget": 0.3})
    offline = classifier.route(pixels, budget=0.3)
    assert np.array_equal(found.as_numpy("label"), offline.label)
    paths = [p.decode() if isinstance(p, bytes) else p for p in found.as_numpy("path")]
    assert paths == offline.path
    assert np.allclose(found.as_numpy("probabilities"), offline.probabilities, atol=1e-6)
    assert found.get_response()["parameters"]["budget_met"]


def test_it_sends_encoded_images(client, endpoint: Endpoint, classifier, images) -> None:
    files = [encoded(pixels, "PNG") for pixels in images[0][:3]]
    tensor = triton.InferInput("encoded", [3], "BYTES")
    tensor.set_data_from_numpy(np.array(files, object))
    found = client.infer(endpoint.service.current.name, [tensor])
    assert np.array_equal(found.as_numpy("label"), classifier.route(files).label)


def test_it_is_told_the_reason(client, endpoint: Endpoint, images) -> None:
    tensor = triton.InferInput("images", [1, 8, 8], "FP32")
    tensor.set_data_from_numpy(images[0][:1].astype(np.float32))
    with pytest.raises(Exception, match="valid: UINT8"):
        client.infer(endpoint.service.current.name, [tensor])
