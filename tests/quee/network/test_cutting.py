"""A network is cut where one tensor goes on, and what stands between its modules is kept."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from quee.errors import UsageError
from quee.network.cutting import Chain, chain_of
from quee.network.products import hand_over

SHAPE = (3, 8, 8)


class Block(nn.Module):
    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(self.fc1(x).relu())


class Net(nn.Module):
    """Tokens of single pixels, blocks in a list, and a mean; positions are added between the modules."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 6, 1)
        self.positions = nn.Parameter(torch.randn(1, 64, 6))
        self.blocks = nn.ModuleList(Block() for _ in range(4))
        self.head = nn.Linear(6, 5)

    def tokens(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        return self.patch_embed(x).reshape(n, 6, -1).transpose(1, 2) + self.positions

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        for block in self.blocks:
            x = block(x)
        return self.head(functional.dropout(x.mean(dim=1), 0.5, training=self.training))


class Dense(Net):
    """Every block reads the outputs of all earlier blocks."""

    def forward(self, x: Tensor) -> Tensor:
        outputs = [self.tokens(x)]
        for block in self.blocks:
            outputs.append(block(sum(outputs[1:], outputs[0])))
        return self.head(sum(outputs[1:], outputs[0]).mean(dim=1))


class Skipped(Net):
    """The stem's output is read again behind the last block."""

    def forward(self, x: Tensor) -> Tensor:
        first = x = self.tokens(x)
        for block in self.blocks:
            x = block(x)
        return self.head((x + first).mean(dim=1))


class Pair(Net):
    class Both(Block):
        def forward(self, x: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            a, b = x
            return super().forward(a), super().forward(b)

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(self.Both() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        pair = self.tokens(x), self.tokens(x)
        for block in self.blocks:
            pair = block(pair)
        return self.head((pair[0] + pair[1]).mean(dim=1))


class Changed(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        for block in self.blocks:
            x = block(x)
            x *= 0.5
        return self.head(x.mean(dim=1))


class ByValue(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if x.mean() > 0 else -x)


class Recurrent(Net):
    def __init__(self) -> None:
        super().__init__()
        self.blocks.append(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)))
        self.rnn = nn.LSTM(6, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.rnn(x)[0].mean(dim=1))


class Twice(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        for block in (*self.blocks, self.blocks[0]):
            x = block(x)
        return self.head(x.mean(dim=1))


def run(model: nn.Module, chain: Chain, x: Tensor) -> list[Tensor]:
    states = []
    for piece in chain.pieces:
        x = piece.run(model, x)
        states.append(x)
    return states


@torch.inference_mode()
def test_the_pieces_give_the_networks_logits_for_any_number_of_samples() -> None:
    torch.manual_seed(0)
    model = Net().eval()
    chain = chain_of(model, SHAPE)
    assert chain.blocks == tuple(f"blocks.{index}" for index in range(4))
    for n in (1, 3):
        x = torch.randn(n, *SHAPE)
        states = run(model, chain, x)
        assert torch.equal(states[-1], model(x))
        assert [tuple(state.shape) for state in states] == [(n, *piece.shape) for piece in chain.pieces]
    assert [piece.macs for piece in chain.pieces] == [64 * 18, *[64 * 72] * 4, 30]
    assert chain.residuals == (1,) * 4
    owners = chain.owners()
    assert (owners["positions"], owners["blocks.2"], owners["head"]) == (0, 3, 5)


@torch.inference_mode()
def test_dropout_between_modules_follows_the_networks_mode() -> None:
    torch.manual_seed(0)
    model = Net().eval()
    chain = chain_of(model, SHAPE)
    x = torch.randn(2, *SHAPE)
    kept = run(model, chain, x)[-1]
    assert not torch.equal(run(model.train(), chain, x)[-1], kept)
    assert torch.equal(run(model.eval(), deepcopy(chain), x)[-1], kept)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Dense, r"its blocks \(blocks.0 …\) read the outputs of all earlier blocks, so no gate cuts it"),
        (Skipped, "behind blocks.0 the network still reads 2 tensors, because connections go past this block"),
        (Pair, "blocks.0 passes on 2 tensors, and a gate holds one"),
        (Changed, "what comes after blocks.0 changes its output in place"),
        (ByValue, "its forward cannot be followed"),
        (Recurrent, "rnn: nothing quantizes a LSTM"),
        (Twice, "blocks.0.fc1 runs 2 times"),
    ],
)
def test_what_cannot_be_cut_is_refused_with_the_reason(network: type[nn.Module], reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as raised:
        chain_of(network().eval(), SHAPE)
    assert "\n" not in str(raised.value)


class Attending(nn.Module):
    """Attention in three spellings, and a layer whose weight is used without calling the layer."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 18, bias=False)
        self.bias = nn.Parameter(torch.randn(18))
        self.proj, self.fused = nn.Linear(6, 6), fused

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = functional.linear(x, self.qkv.weight, bias=self.bias).chunk(3, dim=-1)
        if self.fused:
            y = functional.scaled_dot_product_attention(q, k, v, attn_mask=torch.ones(64, 64, dtype=torch.bool).tril())
        else:
            y = torch.bmm((q * 0.5 @ k.transpose(1, 2)).softmax(dim=-1), v)
        return x + self.proj(y)


@pytest.mark.parametrize("fused", [False, True])
@torch.inference_mode()
def test_products_of_activations_become_modules(fused: bool) -> None:
    torch.manual_seed(0)
    model = Net().eval()
    model.blocks = nn.ModuleList(Attending(fused) for _ in range(2))
    chain = chain_of(model, SHAPE)
    names = {"query_key": "attention", "attention_value": "attention"}
    assert dict(chain.products) == {f"blocks.{index}": (names, ("qkv",)) for index in range(2)}
    x = torch.randn(2, *SHAPE)
    wanted, keys = model(x), set(model.state_dict())
    for name, (products, linears) in chain.products.items():
        hand_over(model.get_submodule(name), products, linears)
    assert set(model.state_dict()) == keys
    called: list[str] = []
    for name, _ in deepcopy(model).named_modules():
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: called.append(name))
    torch.testing.assert_close(run(model, chain, x)[-1], wanted)
    for name in ("qkv", "query_key", "attention_value", "proj"):
        assert called.count(f"blocks.0.{name}") == called.count(f"blocks.1.{name}") == 1
