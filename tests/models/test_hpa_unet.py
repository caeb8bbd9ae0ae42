"""The network of HPA-Cell-Segmentation, and whole pickled modules that are read without running their code."""

from __future__ import annotations

import sys
import types
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import cytoloc as cl
from cytoloc.cells.methods import FieldImage
from cytoloc.errors import ImageError, WeightsError
from cytoloc.models.hpa_unet import HpaUnet, HpaUnetRunner, read_module
from tests.adoption.goldens import drawn_state, waves


@pytest.fixture(scope="module")
def network() -> HpaUnet:
    """Return the network with weights that are drawn from the names of its tensors."""
    made = HpaUnet().eval()
    made.load_state_dict(drawn_state(made.state_dict()))
    return made


def save_whole(network: nn.Module, path: Path) -> Path:
    """Save a network as a whole module, whose class nobody has here."""
    foreign = types.ModuleType("foreign_zoo")
    made = type("DPNUnet", (nn.Module,), {"__module__": "foreign_zoo"})
    foreign.DPNUnet = made  # type: ignore[attr-defined]
    sys.modules["foreign_zoo"] = foreign
    whole: Any = made()
    for name, module in network.named_children():
        whole.add_module(name, module)
    torch.save(nn.DataParallel(whole), path)
    del sys.modules["foreign_zoo"]
    return path


def test_the_network_gives_the_answers_of_the_authors_code(network: HpaUnet) -> None:
    with torch.inference_mode():
        # In 64 bits, because processors add up 32 bits in different orders, which changes the sums by up to 1.4e-5.
        found = deepcopy(network).double()(torch.from_numpy(waves(1, 3, 64)).double() / 255)[0]
    assert found[:, 10, 20].numpy() == pytest.approx((1531.553, 7730.878, 5683.911), rel=1e-5)
    assert found[:, 40, 33].numpy() == pytest.approx((2134.611, 10609.604, 12881.258), rel=1e-5)


def test_a_whole_module_is_read_as_data(tmp_path: Path) -> None:
    small = nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Sequential(nn.ReLU(), nn.Linear(3, 4)))
    state = read_module(save_whole(small, tmp_path / "a.pth"))
    assert "foreign_zoo" not in sys.modules
    expected = small.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


class Harmful:
    """An object whose unpickling would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2), "bad": Harmful(tmp_path / "harm")}, tmp_path / "a.pth")
    assert set(read_module(tmp_path / "a.pth")) == {"weight"}
    assert not (tmp_path / "harm").exists()


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"nonsense")
    with pytest.raises(WeightsError, match="cannot be read as weights"):
        read_module(tmp_path / "a.pth")
    torch.save(nn.Linear(2, 2), tmp_path / "b.pth")
    with pytest.raises(WeightsError, match="another network than DPN-Unet"):
        HpaUnetRunner(tmp_path / "b.pth")
    torch.save("text", tmp_path / "c.pth")
    with pytest.raises(WeightsError, match="has no tensors"):
        read_module(tmp_path / "c.pth")


@pytest.mark.slow
def test_probabilities_have_the_size_of_the_image(network: HpaUnet, tmp_path: Path) -> None:
    runner = HpaUnetRunner(save_whole(network, tmp_path / "dpn_unet.pth"))
    border, inside = runner(np.random.default_rng(0).random((3, 50, 70), np.float32))
    assert border.shape == inside.shape == (50, 70)
    assert ((border >= 0) & (border + inside <= 1.0001)).all()


def test_cells_need_nucleus_and_microtubules() -> None:
    method = cl.HpaSegmentation(nuclei="nuclei.pth", cells="cells.pth")
    image = np.random.default_rng(0).integers(0, 255, (2, 64, 64), dtype=np.uint8)
    with pytest.raises(ImageError, match="has no channel microtubules"):
        method.segment(FieldImage("a", image, ("protein", "nucleus"), 0.32))


class Discs:
    """A network that finds two discs in any image."""

    def __init__(self, radius: int) -> None:
        self.radius = radius

    def __call__(self, planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        y, x = np.mgrid[: planes.shape[1], : planes.shape[2]]
        distance = np.minimum(np.hypot(y - 40, x - 40), np.hypot(y - 40, x - 100))
        return np.where(np.abs(distance - self.radius) < 1, 0.8, 0.0), np.where(distance < self.radius, 0.9, 0.01)


def test_probabilities_become_cells() -> None:
    method = cl.HpaSegmentation(nuclei="nuclei.pth", cells="cells.pth")
    method.__dict__["_networks"] = (Discs(12), Discs(25))
    image = np.zeros((4, 320, 560), np.uint8)
    labels = method.segment(FieldImage("a", image, ("microtubules", "protein", "nucleus", "er"), 0.08))
    assert labels.nuclei is not None
    assert len(np.unique(labels.cells)) == len(np.unique(labels.nuclei)) == 3
    for found, radius in ((labels.nuclei, 48), (labels.cells, 100)):
        areas = np.bincount(found.ravel())[1:]
        assert areas == pytest.approx([np.pi * radius**2] * 2, rel=0.15)
