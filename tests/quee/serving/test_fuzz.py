"""For any request the answer is 2xx, 4xx or 503, and the server lives. `benchmarks/fuzz_serving.py` sends many more."""

from collections import Counter
from itertools import islice

import pytest
from endpoint import Endpoint
from fuzzer import Wire, requests
from hypothesis import HealthCheck, given, settings
from image_files import encoded


def fine(status: int | None) -> bool:
    return status is None or 200 <= status < 300 or 400 <= status < 500 or status == 503


@pytest.mark.slow
def test_mutated_requests_are_answered_or_refused(endpoint: Endpoint, images) -> None:
    wire, seen = Wire(endpoint.port), Counter()
    for data in islice(requests(endpoint.service.current.name, encoded(images[0][0], "PNG"), seed=0), 300):
        status = wire.ask(data)
        assert fine(status), data
        seen[status] += 1
    wire.close()
    assert endpoint.get("/v2/health/live")["live"]
    assert endpoint.service.admitted == 0
    assert seen[200] and seen[400] and seen[404] and seen[415], seen


@pytest.mark.slow
def test_what_the_description_allows_is_answered_or_refused(endpoint: Endpoint) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed (extra `clients`)")
    schema = schemathesis.openapi.from_dict(endpoint.get("/openapi.json"))
    schema.config.update(base_url=f"http://127.0.0.1:{endpoint.port}")
    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(case=operation.as_strategy())
        def answered(case) -> None:
            response = case.call()
            assert fine(response.status_code), (response.status_code, response.content)

        answered()
    assert endpoint.service.admitted == 0
