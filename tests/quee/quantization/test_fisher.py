"""Fisher information: it is what the theory says, ignores what the answer ignores, and leaves the network alone."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from quee.backbones import create_backbone
from quee.quantization import QuantizationConfig, quantize_
from quee.quantization.fisher import fisher

IMAGES = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_of_logits_it_is_the_variance_of_the_label() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 4))
    x = torch.randn(8192, 8)
    p = model(x).softmax(dim=1).double()
    expected = (p * (1 - p)).mean(dim=0).detach().numpy()
    found = fisher(model, x).outputs["0"]
    assert np.allclose(found, expected, rtol=0.05)


def test_channels_that_the_answer_ignores_have_none() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
    with torch.no_grad():
        model[2].weight[:, 2] = 0
    found = fisher(model, torch.randn(64, 8)).outputs["0"]
    assert found[2] == 0
    assert (np.delete(found, 2) > 0).all()


def test_it_covers_every_layer_and_changes_nothing() -> None:
    torch.manual_seed(0)
    backbone = create_backbone("vit_digits", embed_dim=32, depth=2, gates=(1, 2))
    before = deepcopy(backbone.state_dict())
    found = fisher(backbone, IMAGES)
    assert found.outputs["patch_embed.proj"].shape == (32,)
    assert found.outputs["blocks.1.attn.qkv"].shape == (96,)
    tokens = backbone.embed(IMAGES[:1]).shape[1]
    assert found.operands["blocks.0.attn.attention_value"][0].shape == (tokens,)
    assert found.states["blocks.0"].shape == (tokens, 32)
    assert float(found.states["blocks.0"].mean()) == pytest.approx(1)
    again = fisher(backbone, IMAGES)
    assert all(np.array_equal(value, again.outputs[name]) for name, value in found.outputs.items())
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in backbone.modules())
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize("preset", ["fast", "best"])
def test_it_weights_what_is_searched_and_learned(preset: str) -> None:
    torch.manual_seed(0)
    backbone = create_backbone("vit_digits", embed_dim=32, depth=2, gates=(1, 2)).requires_grad_(False)
    states = [
        quantize_(
            deepcopy(backbone), QuantizationConfig.of("w3a3", preset, iterations=5, importance=importance), [IMAGES]
        ).state_dict()
        for importance in ("fisher", "fisher", "output")
    ]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items())
