"""Comparison of adopted networks with published answers, from a server on this machine."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import permutations
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cytoloc as cl
from cytoloc.adoption.checking import PUBLISHED_EXAMPLES, TOLERANCE, Example, Examples, check_adopted
from cytoloc.adoption.published import PUBLISHED
from cytoloc.errors import FetchError, SettingsError, WeightsError
from cytoloc.labels.label_set import find_label_set
from tests.adoption.goldens import waves
from tests.conftest import Cli

NETWORK = "inceptionv3-cbam"
NAMES = find_label_set("hpa19").names
IMAGE = (waves(1, 4, 96)[0] * np.array([0.2, 0.5, 0.8, 1])[:, None, None]).astype(np.uint8)
"""Four channels of different brightness."""


class Classifier(nn.Module):
    """A small classifier of cells with four channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.last = nn.Conv2d(4, 8, 3, stride=2), nn.Linear(8, len(NAMES))
        # The channels have different weights, so that swapped channels are noticed.
        self.body.weight.data *= torch.tensor([2, 4, 6, 8])[:, None, None]

    def forward(self, image: Tensor) -> Tensor:
        """Return the probabilities."""
        probabilities: Tensor = self.last(3 * self.body(image).relu().mean(dim=(2, 3))).sigmoid()
        return probabilities


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the classifier as ONNX."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    path = tmp_path_factory.mktemp("graph") / "w.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = {"image": {0: "n"}}
        torch.onnx.export(
            Classifier(), (torch.zeros(1, 4, 32, 32),), path, input_names=["image"], dynamic_axes=axes, dynamo=False
        )
    return path


@pytest.fixture(scope="module")
def bundle(graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the adopted network."""
    out = tmp_path_factory.mktemp("bundles") / "m.cytoloc"
    return cl.adopt_onnx(graph, out, label_set="hpa19", size=32, channels=cl.CHANNELS)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a server with two images: a PNG with four channels, and four JPEG files."""
    folder = tmp_path_factory.mktemp("site")
    cv2.imwrite(str(folder / "cell.png"), IMAGE.transpose(1, 2, 0))
    # Colored files, as on the site of the Human Protein Atlas: blue, green and red planes for OpenCV.
    shown = {"red": (0, 0, 1), "green": (0, 1, 0), "blue": (1, 0, 0), "yellow": (0, 1, 1)}
    exact = [cv2.IMWRITE_JPEG_QUALITY, 100, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    for plane, (color, planes) in zip(IMAGE, shown.items(), strict=True):
        cv2.imwrite(str(folder / f"field_{color}.jpg"), cv2.merge([plane * each for each in planes]), exact)
    (folder / "text.png").write_text("no image")
    cv2.imwrite(str(folder / "deep.png"), IMAGE.transpose(1, 2, 0).astype(np.uint16) * 257)
    for example in PUBLISHED_EXAMPLES[NETWORK].examples:
        cv2.imwrite(str(folder / example.name), IMAGE.transpose(1, 2, 0))
    handler = partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    """A handler that prints nothing."""

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.mark.filterwarnings("ignore::cytoloc.errors.ModelCaution")
def test_answers_are_compared(bundle: Path, site: str) -> None:
    image = np.stack([cv2.resize(plane, (32, 32)) for plane in IMAGE])[None]
    orders = list(permutations(range(4)))
    with torch.inference_mode():
        answers = Classifier()(torch.cat([torch.from_numpy(image[:, order]) for order in orders]) / 255)
    expected = dict(zip(NAMES, answers[0].tolist(), strict=True))
    assert ((answers[1:] - answers[0]).abs().amax(dim=1) > TOLERANCE).all()
    name = min(NAMES, key=lambda each: abs(expected[each] - 0.5))
    highest = max(NAMES, key=expected.__getitem__)
    other = next(each for each in NAMES if each != highest)
    examples = (
        Example(name="cell.png", highest=highest, probabilities={name: expected[name]}),
        Example(name="cell.png", highest=other, probabilities={name: expected[name] - 0.03}),
        Example(name="field", probabilities=expected),
    )
    found = check_adopted(
        bundle, NETWORK, address=site, published={NETWORK: Examples("http://none.invalid/", examples)}
    )
    assert [answer.agrees for answer in found] == [True, True, False, False, *[True] * len(NAMES)]
    assert found[0].published == found[0].found == highest


def test_what_cannot_be_compared_is_an_error(bundle: Path, site: str) -> None:
    def check(*examples: Example, address: str = site) -> None:
        check_adopted(bundle, NETWORK, address=address, published={NETWORK: Examples(site, examples)})

    with pytest.raises(SettingsError, match="No published predictions of resnet18 are known"):
        check_adopted(bundle, "resnet18")
    with pytest.raises(FetchError, match=r"missing.png cannot be downloaded: .*404"):
        check(Example(name="missing.png"))
    with pytest.raises(FetchError, match="cannot be downloaded"):
        check(Example(name="cell.png"), address="http://127.0.0.1:9")
    with pytest.raises(WeightsError, match="is not an image"):
        check(Example(name="text.png"))
    with pytest.raises(WeightsError, match=r"deep\.png has values of type uint16, not uint8"):
        check(Example(name="deep.png"))
    with pytest.raises(WeightsError, match="does not predict Cortex"):
        check(Example(name="cell.png", highest="Cortex"))


def test_published_answers_are_of_known_networks_and_locations() -> None:
    for network, (address, examples) in PUBLISHED_EXAMPLES.items():
        names = find_label_set(PUBLISHED[network].label_set).names
        assert address.endswith("/")
        for example in examples:
            assert {name for name in (example.highest, *example.probabilities) if name} <= set(names)


def test_the_command_checks_and_keeps_the_bundle(graph: Path, site: str, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "m.cytoloc"
    command = ("adopt", "onnx", graph, "--label-set", "hpa19", "--size", 32, "--out")
    said = cli(*command, out, "--check", NETWORK, "--examples", site)
    assert said.code == 1
    assert "115_672_E2_1_6.png: published Cytosol 0.553 != Cytosol" in said.out
    assert "The bundle was kept." in said.err
    assert cl.load(out, device="cpu").label_set.name == "hpa19"
    said = cli(*command, tmp_path / "n.cytoloc", "--check", NETWORK, "--examples", "http://127.0.0.1:9")
    assert (said.code, "cannot be downloaded" in said.err) == (1, True)
    assert "Use cytoloc.check_adopted(…), or remove the bundle and rerun" in said.err
    assert (tmp_path / "n.cytoloc").exists()
    said = cli(*command, tmp_path / "o.cytoloc", "--examples", site)
    assert (said.code, "--examples needs --check" in said.err) == (2, True)
    assert not (tmp_path / "o.cytoloc").exists()
