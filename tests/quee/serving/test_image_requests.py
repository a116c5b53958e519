"""Forms and base64: images are checked by their headers before anything is decoded."""

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

from quee.serving.images import parse
from quee.serving.refusal import RefusedError
from quee.serving.settings import Settings

SETTINGS = Settings(max_images=4, max_pixels=10_000)
PNG = encoded(noise(0, 8, 9), "PNG")
JSON = "application/json"


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
        images, found, explain = parse(body, content_type, SETTINGS)
        assert (images, found.budget, found.trade_off, explain) == ([image], 0.25, None, True)


@pytest.mark.parametrize(
    ("body", "content_type", "status", "reason"),
    [
        (form(), MULTIPART, 400, "no image"),
        (form(PNG, budget="much"), MULTIPART, 400, "budget='much'"),
        (form(PNG, budget="nan"), MULTIPART, 400, "number"),
        (form(PNG, budgets="1"), MULTIPART, 400, "valid: image"),
        (form(PNG)[:-20], MULTIPART, 400, "form"),
        (form(PNG), "multipart/form-data", 400, "form"),
        (form(PNG).replace(b'name="image"; ', b""), MULTIPART, 400, "no name"),
        (form(*[PNG] * 5), MULTIPART, 413, "at most 4"),
        (form(b"GIF89a" + PNG), MULTIPART, 400, "not a readable"),
        (form(encoded(noise(0, 8, 9), "GIF")), MULTIPART, 400, "not a readable"),
        (form(encoded(noise(0, 8, 9), "BMP")), MULTIPART, 400, "not a readable"),
        (form(png_of(60_000, 60_000)), MULTIPART, 400, "pixels"),
        (form(png_of(200, 51)), MULTIPART, 413, "at most 10,000"),
        (form(png_of(1, 9_000)), MULTIPART, 400, "64 times"),
        (as_json(), JSON, 400, "give one of"),
        (as_json(image="x", images=[]), JSON, 400, "give one of"),
        (as_json(images=[]), JSON, 400, "no image"),
        (as_json(images="x"), JSON, 400, "list"),
        (as_json(image=3), JSON, 400, "base64"),
        (as_json(image=base64.b64encode(PNG).decode(), explain="yes"), JSON, 400, "explain"),
        (as_json(image=base64.b64encode(PNG).decode(), budget="1"), JSON, 400, "budget is a string"),
        (b"[1]", JSON, 400, "give an object"),
        (PNG, "image/png", 415, "multipart"),
        (PNG, "", 415, "multipart"),
    ],
)
def test_bad_requests_are_refused_with_the_reason(body: bytes, content_type: str, status: int, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason) as refused:
        parse(body, content_type, SETTINGS)
    assert refused.value.status == status


def test_a_fields_second_value_is_refused() -> None:
    body = form(PNG, budget="1")
    field = b'--frontier\r\ncontent-disposition: form-data; name="budget"\r\n\r\n2\r\n'
    with pytest.raises(RefusedError, match="twice"):
        parse(field + body, MULTIPART, SETTINGS)


def test_of_an_animation_the_first_frame_counts(tmp_path) -> None:
    frames = [Image.new("L", (8, 8), shade) for shade in (10, 200)]
    file = tmp_path / "moving.webp"
    frames[0].save(file, save_all=True, append_images=frames[1:], lossless=True)
    from quee.data.decode import decode

    images, *_ = parse(form(file.read_bytes()), MULTIPART, SETTINGS)
    assert decode(images[0], 1, "image").getpixel((0, 0)) == 10


@given(st.binary(max_size=300), st.sampled_from([JSON, MULTIPART, "multipart/form-data; boundary=", "text/plain"]))
def test_noise_is_refused_and_nothing_else(body: bytes, content_type: str) -> None:
    with pytest.raises(RefusedError):
        parse(body, content_type, SETTINGS)


def test_bad_forms_leave_nothing_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RefusedError):
        parse(b"no form at all", MULTIPART, Settings())
    assert caplog.records == []
