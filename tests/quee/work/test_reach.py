"""Types and statuses, not messages, decide which failures are tried again."""

import errno
import socket
import urllib.error
from email.message import Message

import pytest
import requests
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ReadTimeoutError
from hypothesis import given
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE

from quee.errors import BusyError, IntegrityError, QueeError, UnreachableError, UsageError
from quee.work.reach import STATUSES, may_pass
from tasks.dvc.inputs import NotPulledError
from tasks.dvc.session import StageError


def http(status: int) -> urllib.error.HTTPError:
    return urllib.error.HTTPError("http://host/", status, "said", Message(), None)


def answered(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError("said", response=response)


def bucket(status: int) -> ClientError:
    facts = {"Error": {"Code": "X", "Message": "said"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(facts, "GetObject")  # type: ignore[arg-type]


def caused(outer: BaseException, inner: BaseException) -> BaseException:
    try:
        try:
            raise inner
        except BaseException as error:
            raise outer from error
    except BaseException as error:
        return error


PASSES = [
    UnreachableError("MLflow does not take results"),
    StageError("stage features@toy failed", 1, True),
    NotPulledError("data/digits is not to be pulled", True),
    OSError(errno.ETIMEDOUT, "said"),
    OSError(errno.ESTALE, "said"),
    ConnectionResetError("said"),
    TimeoutError("said"),
    socket.gaierror(-3, "said"),
    EndpointConnectionError(endpoint_url="http://host"),
    ReadTimeoutError(endpoint_url="http://host"),
    requests.ConnectionError("said"),
    MlflowException("said", TEMPORARILY_UNAVAILABLE),
    caused(ValueError("said"), ConnectionRefusedError("said")),
    ExceptionGroup("said", [ValueError("said"), TimeoutError("said")]),
    *[make(status) for make in (http, answered, bucket) for status in sorted(STATUSES)],
]
STAYS = [
    UsageError("experiments/toy.yaml: timeout: unknown key"),
    BusyError("connection busy"),
    QueeError("no training sample of class 500"),
    QueeError("answer 503 from the store"),
    StageError("stage targets@toy failed: connection timed out", 1),
    NotPulledError("data/digits is not to be pulled: Connection timed out", False),
    IntegrityError("data/digits is neither here nor to be pulled from a remote: connection"),
    NoCredentialsError(),
    OSError(errno.ENOSPC, "no space left on device"),
    PermissionError(errno.EACCES, "connection"),
    MlflowException("connection timed out", INVALID_PARAMETER_VALUE),
    ValueError("timeout"),
    KeyboardInterrupt(),
    *[make(status) for make in (http, answered, bucket) for status in (400, 401, 403, 404, 501)],
]


@pytest.mark.parametrize("error", PASSES, ids=repr)
def test_what_may_pass_is_tried_again(error: BaseException) -> None:
    assert may_pass(error)


@pytest.mark.parametrize("error", STAYS, ids=repr)
def test_what_stays_is_not(error: BaseException) -> None:
    assert not may_pass(error)


@given(words=st.sampled_from(["timed out", "503", "class 500", "connection reset", "slow down", "429"]) | st.text())
def test_words_decide_nothing(words: str) -> None:
    assert not any(may_pass(kind(words)) for kind in (QueeError, IntegrityError, ValueError, RuntimeError, KeyError))
    assert may_pass(UnreachableError(words))
