"""Files of weights that others wrote. They are read as plain data; code in them is never run."""

from __future__ import annotations

import warnings
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cytoloc.errors import WeightsError, first_line

State = dict[str, Tensor]


def read_checkpoint(path: Path, *, hint: str = "Check model.weights.") -> Any:
    """Return the content of a file that was written by ``torch.save``.

    Args:
        path: The file.
        hint: The hint of the error if the file does not exist or cannot be opened.

    Returns:
        Tensors, numbers, texts, lists and dicts.

    Raises:
        WeightsError: If the file does not exist, is damaged, or contains code.
    """
    try:
        # Training scripts often store their options, which are plain values.
        with torch.serialization.safe_globals([Namespace]), warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*TorchScript archive")
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise WeightsError(f"The weights file {path} does not exist.", hint=hint) from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {first_line(error)}.", hint=hint) from error
    # A damaged archive raises different exceptions of pickle, zip and torch.
    except Exception as error:
        if "TorchScript archive" in str(error):
            raise WeightsError(
                f"{path} is a TorchScript file, which contains code, not only weights. The code was not run.",
                hint="Get a file with weights only, as torch.save(network.state_dict(), PATH) writes it.",
            ) from error
        if "Unsupported global" in str(error) or "Unsupported class" in str(error):
            raise WeightsError(
                f"{path} contains code, not only weights. The code was not run.",
                hint="Get a file with weights only, as torch.save(network.state_dict(), PATH) writes it.",
            ) from error
        # torch's own message advises to allow the file to run code.
        raise WeightsError(
            f"{path} cannot be read as weights, because it is damaged or contains something else.",
            hint="Save weights with torch.save(network.state_dict(), PATH), or copy the file again.",
        ) from error


def as_state(content: Any, path: Path) -> State:
    """Return the content of a file as a state dict.

    Args:
        content: The content.
        path: The file, for messages.

    Returns:
        The tensors by name.

    Raises:
        WeightsError: If the content is not a state dict.
    """
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path} is not a state dict.", hint="Save it with torch.save(network.state_dict(), PATH).")
    return content


def refuse_other_tensors(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, path: Path, what: str) -> None:
    """Raise unless a state dict has exactly the tensors of a network.

    Args:
        state: The tensors of the file, named as in the file.
        wanted: The tensors of the network, named as in the file.
        path: The file.
        what: The network, for messages.

    Raises:
        WeightsError: If tensors are missing, left over, or have another shape. The message has examples.
    """
    missing, left = [name for name in wanted if name not in state], [name for name in state if name not in wanted]
    shaped = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    facts = []
    if missing:
        facts.append(f"{len(missing)} of {len(wanted)} tensors are missing, such as {missing[0]}")
    if left:
        facts.append(f"{len(left)} are left over, such as {left[0]}")
    if shaped:
        have, want = (tuple(each[shaped[0]].shape) for each in (state, wanted))
        facts.append(f"{len(shaped)} have another shape, such as {shaped[0]} with {have} instead of {want}")
    if facts:
        raise WeightsError(
            f"{path} has weights of another network than {what}: {'; '.join(facts)}.",
            hint="Check the file and the name of the network. `cytoloc models` lists what can be adopted.",
        )
