import struct
import subprocess
import sys
import zlib
from io import BytesIO
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from image_files import encoded, noise
from PIL import Image

from quee.data.decode import MAX_PIXELS, decode, open_image, to_array, verify
from quee.data.writer import encode_png
from quee.errors import QueeError


def saved(image, kind, **options):
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@settings(max_examples=30, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]))))
def test_our_png_files_decode_to_the_same_pixels(pixels):
    image = decode(encode_png(pixels), pixels.shape[2], "x")
    assert np.array_equal(to_array(image), pixels)


def test_a_png_of_several_stored_blocks():
    pixels = noise(0, 300, 300, 3)
    assert np.array_equal(to_array(decode(encode_png(pixels), 3, "x")), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_png_modes_are_converted(mode):
    image = Image.fromarray(noise(1, 20, 30, 3)).convert(mode)
    pixels = to_array(decode(saved(image, "PNG"), 3, "x"))
    assert np.array_equal(pixels, np.asarray(image.convert("RGB")))


def test_cmyk_is_converted():
    image = Image.new("CMYK", (16, 12), (0, 255, 255, 0))
    pixels = to_array(decode(saved(image, "JPEG"), 3, "x"))
    assert pixels.shape == (12, 16, 3)
    assert pixels[..., 0].min() > 200
    assert pixels[..., 1:].max() < 60


def test_sixteen_bits_keep_their_high_byte():
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    pixels = to_array(decode(saved(Image.fromarray(values), "PNG"), 1, "x"))
    assert np.array_equal(pixels[..., 0], values >> 8)


def test_exif_rotation_is_undone():
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :20] = 255  # left, as stored
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise: the left side is on top
    upright = to_array(decode(saved(Image.fromarray(pixels), "JPEG", exif=exif), 3, "x"))
    assert upright.shape == (60, 40, 3)
    assert upright[:15].min() > 200
    assert upright[25:].max() < 50


def test_webp_decodes():
    pixels = noise(2, 20, 20, 3)
    assert np.array_equal(to_array(decode(encoded(pixels, "WEBP", lossless=True), 3, "x")), pixels)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM", "ICO"])
def test_other_formats_are_refused(kind):
    with pytest.raises(QueeError, match="sample 3: not a readable JPEG, PNG, WEBP image"):
        decode(encoded(noise(3, 32, 32, 3), kind), 3, "sample 3")


def bomb(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [8_000, 30_000, 2_000_000])
def test_the_pixel_limit_is_read_from_the_header(side):
    assert side**2 > MAX_PIXELS
    with pytest.raises(QueeError, match=r"sample 3: .*pixels"):
        decode(bomb(side, side), 3, "sample 3")


@pytest.mark.parametrize("check", [lambda data: decode(data, 3, "x"), lambda data: verify(data, "x")])
@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"GIF89a", encoded(noise(4, 99, 99, 3))[:-500]])
def test_damaged_images_are_refused(data, check):
    with pytest.raises(QueeError, match=r"^x: "):
        check(data)


def test_pillows_own_limit_stays_as_it_is():
    code = (
        "import warnings; from PIL import Image; before = Image.MAX_IMAGE_PIXELS; import quee.data.decode, quee.data.source;"
        "assert Image.MAX_IMAGE_PIXELS == before > 0; warnings.simplefilter('error');"
        "Image.MAX_IMAGE_PIXELS = 10; assert quee.data.decode.open_image(open('x.png', 'rb').read(), 'x').size == (30, 20);"
        "Image.open('x.png')"
    )
    with TemporaryDirectory() as folder:
        Image.new("L", (30, 20)).save(f"{folder}/x.png")
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert "DecompressionBombError" in done.stderr  # of Pillow's own function, at its own limit


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_images_open_as_pillow_opens_them(kind):
    data = encoded(noise(4, 21, 17, 3), kind)
    ours, theirs = open_image(data, "x"), Image.open(BytesIO(data))
    assert (ours.format, ours.size, ours.mode, type(ours)) == (theirs.format, theirs.size, theirs.mode, type(theirs))
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize("brightest", [1, 16, 255])
@pytest.mark.parametrize("read", [verify, lambda data, name: decode(data, 1, name)])
def test_sixteen_bits_of_which_the_upper_eight_are_zero_are_refused(brightest, read):
    data = saved(Image.fromarray(noise(0, 9, 9).astype(np.uint16) % 2 * brightest), "PNG")
    with pytest.raises(
        QueeError, match=f"x: does not decode .*none above {brightest} of 65535: save it anew with 8 bits"
    ):
        read(data, "x")


@pytest.mark.parametrize("brightest", [0, 256, 65535])
def test_sixteen_bits_that_are_black_or_use_the_upper_eight_are_taken(brightest):
    data = saved(Image.fromarray(np.full((9, 9), brightest, np.uint16)), "PNG")
    verify(data, "x")
    assert (to_array(decode(data, 1, "x")) == brightest >> 8).all()
