"""Devices and precisions."""

from __future__ import annotations

import pytest
import torch

from cytoloc.errors import SettingsError
from cytoloc.models.devices import autocast, available_devices, find_device


def test_the_fastest_device_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_devices()[-1] == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device() == torch.device("cuda")
    assert find_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(SettingsError, match="The device cuda:2 is not available"):
        find_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert find_device() == torch.device("mps")


@pytest.mark.parametrize("device", ["cuda", "mps", "toaster", ""])
def test_a_device_that_is_not_there_is_refused(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(SettingsError, match="device") as caught:
        find_device(device)
    assert "Choose an available device: cpu." in caught.value.hint


def test_precisions_are_those_that_the_device_has() -> None:
    cpu = torch.device("cpu")
    with autocast(cpu, "bfloat16"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with autocast(cpu, "float32"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    with pytest.raises(SettingsError, match="is float16, which needs a GPU"):
        autocast(cpu, "float16")
    with pytest.raises(SettingsError, match="`precision` has the unknown value 'bfloat'") as caught:
        autocast(cpu, "bfloat")  # type: ignore[arg-type]
    assert "Did you mean bfloat16" in caught.value.hint
