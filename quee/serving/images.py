"""The image endpoint's requests: files of a form, or base64 in JSON, with a budget beside them; and their limits."""

import base64
import binascii
import logging
import re
from collections.abc import Mapping
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from quee.data.decode import open_image
from quee.errors import QueeError, UsageError
from quee.runtime.classifier import Options
from quee.serving import strict_json
from quee.serving.refusal import RefusedError, bad
from quee.serving.settings import Settings

OPTIONS = ("budget", "trade_off", "max_cost")
FIELDS = ("image", "images", *OPTIONS, "explain")
ELONGATION = 64
"""Longer side over shorter at most: the shorter is scaled to the network's input, and the longer with it."""
PARTS = 2048
logging.getLogger("python_multipart").setLevel(
    logging.CRITICAL
)  # it warns of every bad form: strangers would fill the log
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?")


def options_of(given: Mapping[str, Any]) -> Options:
    """Budget, trade-off and limit from request parameters; raises RefusedError for what is no number or out of range."""
    found = {name: _number(name, given[name]) for name in OPTIONS if given.get(name) is not None}
    try:
        return Options(**found)
    except UsageError as error:
        raise bad(str(error), "options") from None


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise bad(f"{name} is a {_kind(value)}; give a number", "options")
    try:
        return float(value)
    except OverflowError:
        raise bad(f"{name} is too large", "options") from None


def _kind(value: Any) -> str:
    return {dict: "object", list: "list", str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")


def check_size(width: int, height: int, name: str, settings: Settings) -> None:
    """Raises RefusedError for an image that is empty, too large or too elongated."""
    if width < 1 or height < 1:
        raise bad(f"{name}: {width}×{height} pixels", "shape")
    if width * height > settings.max_pixels:
        raise RefusedError(413, "pixels", f"{name}: {width}×{height} pixels; at most {settings.max_pixels:,}")
    if max(width, height) > ELONGATION * min(width, height):
        raise bad(f"{name}: {width}×{height} pixels; one side at most {ELONGATION} times the other", "shape")


def check_images(images: list[bytes], settings: Settings) -> list[bytes]:
    """Encoded images, each checked by its header alone; raises RefusedError for the first that will not be decoded."""
    if not images:
        raise bad("no image given", "no_image")
    if len(images) > settings.max_images:
        raise RefusedError(413, "images", f"{len(images)} images in a request; at most {settings.max_images}")
    for index, data in enumerate(images):
        name = f"image {index}"
        try:
            opened = open_image(data, name)
        except QueeError as error:
            raise bad(str(error), "image") from None
        check_size(*opened.size, name, settings)
    return images


def parse(body: bytes, content_type: str, settings: Settings) -> tuple[list[bytes], Options, bool]:
    """Encoded images, options, and whether an explanation is wanted."""
    kind, parameters = parse_options_header(content_type)
    if kind == b"application/json":
        images, given = _from_json(strict_json.loads(body))
    elif kind == b"multipart/form-data":
        images, given = _from_form(body, parameters.get(b"boundary", b""))
    else:
        raise RefusedError(415, "content_type", "give multipart/form-data or application/json")
    if unknown := sorted(set(given) - set(FIELDS)):
        raise bad(f"unknown field {unknown[0][:80]!r}; valid: {', '.join(FIELDS)}")
    explain = given.pop("explain", False)
    if not isinstance(explain, bool):
        raise bad("explain: give true or false")
    return check_images(images, settings), options_of(given), explain


def _from_json(value: Any) -> tuple[list[bytes], dict[str, Any]]:
    if not isinstance(value, dict):
        raise bad(f"the body is a {_kind(value)}; give an object")
    given = dict(value)
    found = given.pop("images", None)
    single = given.pop("image", None)
    if (found is None) == (single is None):
        raise bad("give one of image (base64) and images (a list of base64)", "no_image")
    texts = found if single is None else [single]
    if not isinstance(texts, list):
        raise bad(f"images is a {_kind(texts)}; give a list of base64")
    return [decoded(text, f"image {index}") for index, text in enumerate(texts)], given


def decoded(text: Any, name: str) -> bytes:
    """Base64, also as a `data:` URL; raises RefusedError."""
    if not isinstance(text, str):
        raise bad(f"{name} is a {_kind(text)}; give base64")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad(f"{name} is not base64: {error}") from None


def _from_form(body: bytes, boundary: bytes) -> tuple[list[bytes], dict[str, Any]]:
    parts = _parts(body, boundary)
    images: list[bytes] = []
    given: dict[str, Any] = {}
    for name, data in parts:
        if name in ("image", "images"):
            images.append(data)
        elif name in given:
            raise bad(f"field {name[:80]!r} is given twice", "duplicate_key")
        else:
            given[name] = _field(name, data)
    return images, given


def _field(name: str, data: bytes) -> Any:
    text = data[:64].decode("latin-1").strip()
    if text in ("true", "false"):
        return text == "true"
    if not text:
        return None
    if len(data) <= 64 and _NUMBER.fullmatch(text):
        return float(text)
    raise bad(f"{name[:80]}={text!r}: give a number", "options")


def _parts(body: bytes, boundary: bytes) -> list[tuple[str, bytes]]:
    """Names and contents of a form's parts, all in memory."""
    parts: list[tuple[bytearray, bytearray]] = []  # content-disposition, content
    field, value = bytearray(), bytearray()
    ended = False

    def begin() -> None:
        if len(parts) == PARTS:
            raise RefusedError(413, "parts", f"over {PARTS} parts in a form")
        parts.append((bytearray(), bytearray()))

    def header_end() -> None:
        if field.lower() == b"content-disposition":
            parts[-1][0][:] = value
        field.clear()
        value.clear()

    def end() -> None:
        nonlocal ended
        ended = True

    callbacks: Any = {
        "on_part_begin": begin,
        "on_header_field": lambda data, start, stop: field.extend(data[start:stop]),
        "on_header_value": lambda data, start, stop: value.extend(data[start:stop]),
        "on_header_end": header_end,
        "on_part_data": lambda data, start, stop: parts[-1][1].extend(data[start:stop]),
        "on_end": end,
    }
    try:
        parser = MultipartParser(boundary, callbacks)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise bad(f"not a form: {str(error)[:200]}") from None
    if not ended:
        raise bad("the form has no end")
    named = []
    for disposition, content in parts:
        _, options = parse_options_header(bytes(disposition))
        if b"name" not in options:
            raise bad("a part of the form has no name")
        named.append((options[b"name"].decode("utf-8", "replace"), bytes(content)))
    return named
