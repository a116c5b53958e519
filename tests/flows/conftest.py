"""Prefect's own settings for tests, before it is imported, and one server for all of them."""

import os
import tempfile
from collections.abc import Iterator

import pytest
from toy_project import project as project
from toy_project import template as template

os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="prefect-")
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"
os.environ["QUEE_RETRY_SECONDS"] = "0.1"
os.environ["PREFECT_LOGGING_LEVEL"] = "ERROR"


@pytest.fixture(scope="session")
def server() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield
