import numpy as np
import pytest
import torch
from image_files import noise
from PIL import Image
from timm.data import create_transform

from quee.data.preprocessing import Preprocessing
from quee.data.transforms import DRAWS, augment, draws, to_unit
from quee.settings.backbone import Augmentation


@pytest.mark.parametrize("shape", [(300, 400), (500, 375), (224, 224), (100, 90), (32, 32)])
@pytest.mark.parametrize(("crop_pct", "interpolation"), [(0.9, "bicubic"), (1.0, "bicubic"), (0.875, "bilinear")])
def test_preprocessing_equals_timms(shape, crop_pct, interpolation):
    config = {
        "input_size": (3, 224, 224),
        "crop_pct": crop_pct,
        "interpolation": interpolation,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }
    image = Image.fromarray(noise(0, *shape, 3))
    ours = Preprocessing((224, 224), crop_pct, interpolation, config["mean"], config["std"], 3)
    x = ours.normalise(to_unit(np.asarray(ours.fit(image))[None]))[0]
    expected = create_transform(**config, is_training=False)(image)
    assert torch.allclose(x, expected, atol=1e-5)


def test_draws_depend_on_the_sample_alone_and_are_uniform():
    u = draws((0, 1), np.arange(5000))
    assert u.shape == (5000, DRAWS)
    assert u.min() >= 0
    assert u.max() < 1
    assert np.array_equal(draws((0, 1), np.array([77, 4]))[0], u[77])
    assert np.abs(u.mean(axis=0) - 0.5).max() < 0.02
    assert np.abs(np.corrcoef(u.T) - np.eye(DRAWS)).max() < 0.06


def test_a_shift_moves_whole_pixels_and_brings_in_black():
    images = torch.rand(200, 3, 6, 6) + 0.1
    moved = augment(images, Augmentation(crop_padding=2), draws((0,), np.arange(200)), (0.5,) * 3)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    shifts = set()
    for image, original in zip(moved, padded, strict=True):
        found = [(r, c) for r in range(5) for c in range(5) if torch.equal(image, original[:, r : r + 6, c : c + 6])]
        assert len(found) == 1
        shifts.add(found[0])
    assert len(shifts) == 25


def test_a_flip_mirrors_about_half_of_the_images():
    images = torch.rand(400, 1, 5, 7)
    flipped = augment(images, Augmentation(flip=True), draws((0,), np.arange(400)), (0.5,))
    mirrored = sum(torch.equal(a, b.flip(-1)) for a, b in zip(flipped, images, strict=True))
    kept = sum(torch.equal(a, b) for a, b in zip(flipped, images, strict=True))
    assert mirrored + kept == 400
    assert 150 < mirrored < 250


def test_a_rotation_by_nothing_changes_nothing_and_by_much_keeps_the_centre():
    images = torch.rand(50, 1, 9, 9)
    u = draws((0,), np.arange(50))
    still = u.copy()
    still[:, 3:5] = 0.5  # the middle of the range: angle 0, zoom 1
    assert torch.allclose(augment(images, Augmentation(rotate=90.0, scale=0.5), still, (0.5,)), images, atol=1e-5)
    turned = augment(images, Augmentation(rotate=90.0), u, (0.5,))
    assert torch.allclose(turned[:, :, 4, 4], images[:, :, 4, 4], atol=1e-5)
    assert not torch.allclose(turned, images)


def test_a_quarter_turn_is_exact():
    images = torch.rand(3, 2, 8, 8)
    u = np.full((3, DRAWS), 0.5)
    u[:, 3] = 1.0
    turned = augment(images, Augmentation(rotate=90.0), u, (0.5,))
    assert torch.allclose(turned, images.rot90(1, (-2, -1)), atol=1e-5) or torch.allclose(
        turned, images.rot90(-1, (-2, -1)), atol=1e-5
    )


def test_erasing_blanks_a_rectangle_of_about_the_share_asked_for():
    images = torch.ones(1000, 1, 16, 16)
    erased = augment(images, Augmentation(erase=0.3), draws((1,), np.arange(1000)), (0.0,))
    area = 1 - erased.mean((1, 2, 3))
    assert 0.25 < (area > 0).float().mean() < 0.35
    assert area.max() < 0.4


def test_a_backbone_that_takes_bgr_gets_it_with_its_own_means():
    rgb = Preprocessing((4, 4), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), channels=3)
    bgr = Preprocessing((4, 4), mean=(0.3, 0.2, 0.1), std=(0.6, 0.5, 0.4), channels=3, channel_order="bgr")
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(bgr.normalise(x.clone()), rgb.normalise(x.clone()).flip(1))
    assert bgr.channel_means == rgb.channel_means == (0.1, 0.2, 0.3)
    assert torch.equal(
        rgb.normalise(x), (x - torch.tensor(rgb.mean).view(3, 1, 1)) / torch.tensor(rgb.std).view(3, 1, 1)
    )


def test_a_bundle_says_of_later_fields_only_what_is_not_the_default():
    plain = Preprocessing((4, 4), channels=3)
    assert set(plain.facts()) == {"size", "crop_pct", "interpolation", "mean", "std", "channels"}
    assert Preprocessing(**plain.facts()) == plain
    turned = Preprocessing((4, 4), channels=3, channel_order="bgr", resize="both")
    assert {"channel_order": "bgr", "resize": "both"}.items() <= turned.facts().items()
    assert Preprocessing(**turned.facts()) == turned


def test_colours_change_by_factors_of_an_image_alone_and_stay_in_range():
    images = torch.rand(300, 3, 5, 5) * 0.4 + 0.3
    u = draws((0,), np.arange(300))
    changed = augment(images, Augmentation(colour=0.3), u, (0.5,) * 3)
    assert torch.equal(changed[7:9], augment(images[7:9], Augmentation(colour=0.3), u[7:9], (0.5,) * 3))
    assert changed.min() >= 0 and changed.max() <= 1
    spread = changed.std(dim=(1, 2, 3)) / images.std(dim=(1, 2, 3))
    light = changed.mean(dim=(1, 2, 3)) / images.mean(dim=(1, 2, 3))
    assert 0.7 * 0.7 * 0.7 < spread.min() < 0.7 and 1.3 < spread.max() < 1.3**3
    assert 0.69 < light.min() < 0.75 and 1.25 < light.max() < 1.31
    grey = augment(images[:, :1], Augmentation(colour=0.3), u, (0.5,))
    assert torch.allclose(grey, grey.mean(dim=1, keepdim=True))
