"""Forms and base64: images are checked by their headers before anything is decoded."""

import asyncio
import base64
import json
import struct
import zlib

import pytest
from endpoint import MULTIPART, form
from hypothesis import given
from hypothesis import strategies as st
from image_files import encoded, noise
from PIL import Image
from starlette.requests import Request

from quee.runtime import Options
from quee.serving.classify import Classify, asked
from quee.serving.requests import RefusedError
from quee.serving.settings import Settings

SETTINGS = Settings(max_images=4, max_pixels=10_000)
PNG = encoded(noise(0, 8, 9), "PNG")
JSON = "application/json"


class Here:
    """The parts of a service that reading a request needs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    async def done(self, work, size: int):
        return work()


def parse(body: bytes, content_type: str, settings: Settings = SETTINGS) -> Classify:
    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body}

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", content_type.encode())], "app": None}
    return asyncio.run(asked(Request(scope, receive), Here(settings)))


def as_json(**value: object) -> bytes:
    return json.dumps(value).encode()


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header promises pixels that are not there."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", len(header)) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n" + chunk + PNG[33:]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_forms_and_base64_say_the_same(kind: str) -> None:
    image = encoded(noise(1, 8, 9, 3), kind)
    text = base64.b64encode(image).decode()
    options = {"budget": 0.25, "explain": True}
    bodies = [
        (as_json(image=text, **options), JSON),
        (as_json(images=[f"data:image/png;base64,{text}"], **options), JSON),
        (form(image, budget="0.25", explain="true"), MULTIPART),
    ]
    for body, content_type in bodies:
        found = parse(body, content_type)
        assert (found.files, found.options, found.explain) == ([image], Options(budget=0.25), True)


@pytest.mark.parametrize(
    ("body", "content_type", "status", "reason"),
    [
        (form(), MULTIPART, 400, "no image"),
        (form(PNG, budget="much"), MULTIPART, 400, "budget: .*number.*'much'"),
        (form(PNG, budget="nan"), MULTIPART, 400, "number"),
        (form(PNG, budget=""), MULTIPART, 400, "budget: .*number, not ''$"),
        (form(PNG, budget="0,2"), MULTIPART, 400, "number, not '0,2'; write the number with a point: 0.2$"),
        (form(PNG, budgets="1"), MULTIPART, 400, "'budgets'; valid: budget"),
        (form(PNG)[:-20], MULTIPART, 400, "form"),
        (form(PNG), "multipart/form-data", 400, "form"),
        (form(PNG).replace(b'; filename="i"', b""), MULTIPART, 400, "image: not base64"),
        (form(PNG, **{f"f{i}": "1" for i in range(65)}), MULTIPART, 413, "number of fields is 64"),
        (form(PNG, explain="perhaps"), MULTIPART, 400, "explain: .*boolean"),
        (form(PNG, image=base64.b64encode(PNG).decode()), MULTIPART, 400, "give one of"),
        (form(PNG).replace(b'name="image"; ', b""), MULTIPART, 400, "name"),
        (form(*[PNG] * 5), MULTIPART, 413, "number of files is 4"),
        (form(b"GIF89a" + PNG), MULTIPART, 400, "not a readable"),
        (form(encoded(noise(0, 8, 9), "GIF")), MULTIPART, 400, "not a readable"),
        (form(encoded(noise(0, 8, 9), "BMP")), MULTIPART, 400, "not a readable"),
        (form(png_of(60_000, 60_000)), MULTIPART, 400, "pixels"),
        (form(png_of(200, 51)), MULTIPART, 413, "at most 10,000"),
        (form(png_of(1, 9_000)), MULTIPART, 400, "64 times"),
        (as_json(), JSON, 400, "give one of"),
        (as_json(image="aGVsbG8=", images=[]), JSON, 400, "give one of"),
        (as_json(images=[]), JSON, 400, "no image"),
        (as_json(images="x"), JSON, 400, "images: .*array, not 'x'"),
        (as_json(images=["aGVsbG8=", "%%"]), JSON, 400, "images.1: not base64"),
        (as_json(images=[base64.b64encode(PNG).decode()] * 5), JSON, 413, "at most 4"),
        (as_json(image=3), JSON, 400, "image: .*bytes, not 3"),
        (as_json(image=base64.b64encode(PNG).decode(), explain="yes"), JSON, 400, "explain"),
        (as_json(image=base64.b64encode(PNG).decode(), budget="1"), JSON, 400, "budget: .*number, not '1'"),
        (b"[1]", JSON, 400, "the body: .*object"),
        (b"{", JSON, 400, "not JSON"),
        (PNG, "image/png", 415, "multipart"),
        (PNG, "", 415, "multipart"),
    ],
)
def test_bad_requests_are_refused_with_the_reason(body: bytes, content_type: str, status: int, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason) as refused:
        parse(body, content_type)
    assert refused.value.status == status


def test_a_fields_second_value_is_refused() -> None:
    body = form(PNG, budget="1")
    field = b'--frontier\r\ncontent-disposition: form-data; name="budget"\r\n\r\n2\r\n'
    with pytest.raises(RefusedError, match="twice"):
        parse(field + body, MULTIPART)


def test_of_an_animation_the_first_frame_counts(tmp_path) -> None:
    frames = [Image.new("L", (8, 8), shade) for shade in (10, 200)]
    file = tmp_path / "moving.webp"
    frames[0].save(file, save_all=True, append_images=frames[1:], lossless=True)
    from quee.data.decode import decode

    found = parse(form(file.read_bytes()), MULTIPART)
    assert decode(found.files[0], 1, "image").getpixel((0, 0)) == 10


@given(st.binary(max_size=300), st.sampled_from([JSON, MULTIPART, "multipart/form-data; boundary=", "text/plain"]))
def test_noise_is_refused_and_nothing_else(body: bytes, content_type: str) -> None:
    with pytest.raises(RefusedError):
        parse(body, content_type)


def test_bad_forms_leave_nothing_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RefusedError):
        parse(b"no form at all", MULTIPART, Settings())
    assert caplog.records == []
