from __future__ import annotations

import pytest
import torch

from cytoloc.predict.engines.engine import EngineName, Outputs
from cytoloc.predict.tta import TTA_VIEWS, dihedral, mean_outputs


def test_the_eight_views_are_all_different_and_keep_pixels() -> None:
    fields = torch.arange(2 * 4 * 9, dtype=torch.uint8).reshape(2, 4, 3, 3)
    views = [dihedral(fields, number) for number in range(8)]
    assert torch.equal(views[0], fields)
    assert len({tuple(view.flatten().tolist()) for view in views}) == 8
    for view in views:
        assert torch.equal(view.flatten(2).sort().values, fields.flatten(2).sort().values)


@pytest.mark.parametrize("tta", [1, 2, 4, 8])
def test_sets_of_views_are_closed(tta: int) -> None:
    field = torch.rand(1, 1, 5, 5)
    numbers = TTA_VIEWS[tta]
    assert len(set(numbers)) == tta
    seen = [dihedral(field, number) for number in numbers]
    # Averaging over a set that is closed gives every member of it the same prediction.
    for one in seen:
        for number in numbers:
            assert any(torch.equal(dihedral(one, number), other) for other in seen)


def test_logits_are_averaged_and_do_not_depend_on_the_view() -> None:
    torch.manual_seed(0)
    weight = torch.rand(4 * 8 * 8, 28)

    class Network:
        name: EngineName = "torch"

        def __call__(self, pixels: torch.Tensor) -> Outputs:
            values = (pixels.float().flatten(1) @ weight).sin()
            return Outputs(values, 2 * values)

    network = Network()

    fields = torch.rand(3, 4, 8, 8)
    expected = torch.stack([network(dihedral(fields, view)).logits for view in range(8)]).mean(dim=0)
    assert torch.allclose(mean_outputs(network, fields, tta=8).logits, expected)
    assert torch.equal(mean_outputs(network, fields, tta=8).features, network(fields).features)
    turned = mean_outputs(network, dihedral(fields, 5), tta=8).logits
    assert torch.allclose(turned, expected, atol=1e-5)
    assert torch.equal(mean_outputs(network, fields, tta=1).logits, network(fields).logits)
