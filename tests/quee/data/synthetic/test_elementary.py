"""The functions computed in basic operations are those of the libraries, to many digits."""

import numpy as np
import torch
from torch.nn import functional

from quee.data.synthetic.elementary import bilinear, bordered, cos_sin, enlarged, exp, filtered

RNG = np.random.default_rng(0)


def test_exp_cosine_and_sine() -> None:
    x = np.linspace(-39, 3, 5001)
    assert np.allclose(exp(x), np.exp(x), rtol=1e-11, atol=0)
    assert (exp(np.array([-1e9, -41.0])) < 1e-17).all()
    angle = np.linspace(-1, 1, 5001)
    cosine, sine = cos_sin(angle)
    assert np.abs(cosine - np.cos(angle)).max() < 1e-15
    assert np.abs(sine - np.sin(angle)).max() < 1e-15


def test_bilinear_is_pytorchs_grid_sample_with_zeros_outside() -> None:
    images = RNG.integers(0, 256, (3, 7, 9)).astype(np.uint8)
    places = RNG.uniform(-1.6, 1.6, (3, 20, 20, 2))
    expected = functional.grid_sample(
        torch.from_numpy(images[:, None].astype(np.float64)), torch.from_numpy(places), align_corners=False
    )
    x, y = (places[..., 0] + 1) * 9 / 2 - 0.5, (places[..., 1] + 1) * 7 / 2 - 0.5
    found = bilinear(bordered(images), np.arange(3)[:, None, None], x, y)
    assert np.allclose(found, expected[:, 0].numpy(), atol=1e-9)


def test_enlarging_is_pytorchs_bicubic() -> None:
    grid = RNG.normal(size=(2, 3, 4, 4))
    expected = functional.interpolate(torch.from_numpy(grid), size=32, mode="bicubic", align_corners=False)
    assert np.allclose(enlarged(grid, 8), expected.numpy(), atol=1e-12)


def test_filtering_is_pytorchs_convolution_with_each_images_own_kernel() -> None:
    images, weights = RNG.normal(size=(2, 3, 8, 10)), RNG.uniform(size=(2, 7))
    padded = functional.pad(torch.from_numpy(images), (3, 3, 3, 3), mode="replicate")
    kernel = torch.from_numpy(weights[:, :, None] * weights[:, None])
    for number, own in enumerate(kernel):
        expected = functional.conv2d(padded[number][:, None], own[None, None])[:, 0]
        assert np.allclose(filtered(images, weights)[number], expected.numpy(), atol=1e-12)
