"""One endpoint for all tests that do not change it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from endpoint import Endpoint, serving


@pytest.fixture(scope="session")
def endpoint(bundle: Path) -> Iterator[Endpoint]:
    with serving(bundle, control=False) as running:
        yield running
