from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from cytoloc.models.heads import AntibodyHead, AttentionHead, AverageMaxHead, MultiStageHead, PlainHead

FEATURES = 6


def a_map(count: int = 3, edge: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, FEATURES, edge, edge, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", [PlainHead, AverageMaxHead, AttentionHead])
def test_heads_take_maps_of_any_size_and_do_not_mind_where_things_are(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    head = kind(FEATURES, 28, dropout=0.5, prior=0.05).eval()
    for edge in (1, 4, 7):
        assert head(a_map(edge=edge)).shape == (3, 28)
    turned = torch.rot90(a_map(), 1, dims=(2, 3))
    assert torch.allclose(head(turned), head(a_map()), atol=1e-6)
    assert torch.allclose(head(a_map())[1:2], head(a_map()[1:2]), atol=1e-6)


def test_the_fastai_head_is_layer_by_layer_what_it_says() -> None:
    torch.manual_seed(0)
    head = AverageMaxHead(FEATURES, 28, dropout=0.5, prior=0.5)
    kinds = [type(layer).__name__ for layer in head.layers]
    assert kinds == ["BatchNorm1d", "Dropout", "Linear", "ReLU", "BatchNorm1d", "Dropout", "Linear"]
    assert [layer.p for layer in head.layers if isinstance(layer, nn.Dropout)] == [0.25, 0.5]
    linear = [layer for layer in head.layers if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == [(2 * FEATURES, 512), (512, 28)]
    assert torch.equal(linear[1].bias, torch.zeros(28))
    seen: list[torch.Tensor] = []
    head.layers[0].register_forward_hook(lambda _layer, given, _made: seen.append(given[0]))
    head.eval()(a_map())
    pooled = torch.cat([a_map().flatten(2).mean(dim=2), a_map().flatten(2).max(dim=2).values], dim=1)
    assert torch.allclose(seen[0], pooled)


def test_attention_is_even_at_first_and_then_each_class_looks_where_it_learnt_to() -> None:
    torch.manual_seed(0)
    head = AttentionHead(FEATURES, 28, dropout=0.0, prior=0.05).eval()
    assert torch.allclose(head.attention(a_map()), torch.full((3, 28, 5, 5), 1 / 25))
    mean = a_map().mean(dim=(2, 3)) @ head.last.weight.T + math.log(0.05 / 0.95)
    assert torch.allclose(head(a_map()), mean, atol=1e-6)

    nn.init.normal_(head.places.weight)
    share = head.attention(a_map())
    assert torch.allclose(share.sum(dim=(2, 3)), torch.ones(3, 28), atol=1e-6)
    # The same as a pooled vector of features for each class, which the last layer then weighs.
    pooled = torch.einsum("nkhw,nfhw->nkf", share, a_map())
    expected = torch.einsum("nkf,kf->nk", pooled, head.last.weight) + head.last.bias
    assert torch.allclose(head(a_map()), expected, atol=1e-5)


def test_several_stages_are_pooled_each() -> None:
    torch.manual_seed(0)
    head = MultiStageHead([2, 4], 28, dropout=0.5, prior=0.05).eval()
    maps = [torch.randn(3, 2, 8, 8), torch.randn(3, 4, 4, 4)]
    assert head(maps).shape == (3, 28)
    for changed in range(2):
        other = [one + (number == changed) for number, one in enumerate(maps)]
        assert not torch.allclose(head(other), head(maps))


def test_antibodies_are_cosines() -> None:
    torch.manual_seed(0)
    head = AntibodyHead(FEATURES, 7, units=16).eval()
    cosines = head(a_map())
    assert cosines.shape == (3, 7)
    embedded = head.embed(a_map().mean(dim=(2, 3)))
    expected = torch.cosine_similarity(embedded[:, None], head.directions[None], dim=2)
    assert torch.allclose(cosines, expected, atol=1e-6)
