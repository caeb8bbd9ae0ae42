"""What is done to training pictures, on whole batches of uint8 pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from cytoloc.predict.views import dihedral


def random_dihedral(fields: Tensor, *, flips: bool, turns: bool, generator: torch.Generator) -> Tensor:
    """Return ``fields``, ``(n, channels, size, size)``, each flipped and turned at random, all allowed ways alike.

    Args:
        fields: The batch.
        flips: Whether half of the fields are mirrored.
        turns: Whether fields are turned by a multiple of 90 degrees.
        generator: Source of randomness, on the CPU.
    """
    count = len(fields)
    flip = torch.randint(0, 2 if flips else 1, (count,), generator=generator)
    turn = torch.randint(0, 4 if turns else 1, (count,), generator=generator)
    view = 4 * flip + turn
    augmented = torch.empty_like(fields)
    for number in set(view.tolist()):
        chosen = (view == number).to(fields.device)
        augmented[chosen] = dihedral(fields[chosen], number)
    return augmented
