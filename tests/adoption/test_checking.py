"""Comparison of adopted networks with published answers, from a server on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import cytoloc as cl
from cytoloc.adoption.checking import PUBLISHED_EXAMPLES, Example, Examples, check_adopted
from cytoloc.adoption.published import INCEPTIONV3_CBAM, PUBLISHED
from cytoloc.errors import FetchError, SettingsError, WeightsError
from cytoloc.labels.label_set import find_label_set
from cytoloc.models.network import build_network
from tests.adoption.goldens import drawn_state, waves
from tests.conftest import Cli

NETWORK = "inceptionv3-cbam"
NAMES = find_label_set("hpa19").names


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return weights that are drawn from names, as a file of the authors."""
    own = build_network(INCEPTIONV3_CBAM.specs[""]).state_dict()
    renamed = {}
    for here, there in sorted(INCEPTIONV3_CBAM.names.items(), key=lambda pair: -len(pair[0])):
        for name in [name for name in own if name.startswith(here)]:
            renamed[there + name.removeprefix(here)] = own.pop(name)
    path = tmp_path_factory.mktemp("weights") / "w.pth"
    torch.save(drawn_state(renamed), path)
    return path


@pytest.fixture(scope="module")
def bundle(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the adopted network."""
    return cl.adopt(NETWORK, weights, tmp_path_factory.mktemp("bundles") / "m.cytoloc")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a server with two images: a PNG with four channels, and four JPEG files."""
    folder = tmp_path_factory.mktemp("site")
    image = waves(1, 4, 96)[0]
    cv2.imwrite(str(folder / "cell.png"), image.transpose(1, 2, 0))
    for plane, color in zip(image, ("red", "green", "blue", "yellow"), strict=True):
        cv2.imwrite(str(folder / f"field_{color}.jpg"), cv2.merge([plane] * 3), [cv2.IMWRITE_JPEG_QUALITY, 100])
    (folder / "text.png").write_text("no image")
    for example in PUBLISHED_EXAMPLES[NETWORK].examples:
        cv2.imwrite(str(folder / example.name), image.transpose(1, 2, 0))
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
    image = np.stack([cv2.resize(plane, (128, 128)) for plane in waves(1, 4, 96)[0]])[None]
    expected = dict(zip(NAMES, cl.load(bundle, device="cpu").predict(image).probabilities[0].tolist(), strict=True))
    # Probabilities that are neither 0 nor 1, so that a wrong channel order is seen.
    name = min(NAMES, key=lambda each: abs(expected[each] - 0.5))
    highest = max(NAMES, key=expected.__getitem__)
    other = next(each for each in NAMES if each != highest)
    examples = (
        Example(name="cell.png", highest=highest, probabilities={name: expected[name]}),
        Example(name="cell.png", highest=other, probabilities={name: expected[name] - 0.03}),
        Example(name="field", probabilities={name: expected[name]}),
    )
    found = check_adopted(
        bundle, NETWORK, address=site, published={NETWORK: Examples("http://none.invalid/", examples)}
    )
    assert [answer.agrees for answer in found] == [True, True, False, False, True]
    assert found[0].published == found[0].found == highest


def test_what_cannot_be_compared_is_an_error(bundle: Path, site: str) -> None:
    def check(*examples: Example, address: str = site) -> None:
        check_adopted(bundle, NETWORK, address=address, published={NETWORK: Examples(site, examples)})

    with pytest.raises(SettingsError, match="No published answers of resnet18 are known"):
        check_adopted(bundle, "resnet18")
    with pytest.raises(FetchError, match=r"missing.png cannot be downloaded: .*404"):
        check(Example(name="missing.png"))
    with pytest.raises(FetchError, match="cannot be downloaded"):
        check(Example(name="cell.png"), address="http://127.0.0.1:9")
    with pytest.raises(WeightsError, match="is not an image"):
        check(Example(name="text.png"))
    with pytest.raises(WeightsError, match="does not predict Cortex"):
        check(Example(name="cell.png", highest="Cortex"))


def test_published_answers_are_of_known_networks_and_locations() -> None:
    for network, (address, examples) in PUBLISHED_EXAMPLES.items():
        names = find_label_set(PUBLISHED[network].label_set).names
        assert address.endswith("/")
        for example in examples:
            assert {name for name in (example.highest, *example.probabilities) if name} <= set(names)


def test_the_command_checks_and_keeps_the_bundle(weights: Path, site: str, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "m.cytoloc"
    command = ("adopt", NETWORK, weights, "--out")
    said = cli(*command, out, "--check", "--examples", site)
    assert said.code == 1
    assert "115_672_E2_1_6.png: published Cytosol 0.553 != Cytosol" in said.out
    assert "The bundle was kept." in said.err
    assert cl.load(out, device="cpu").label_set.name == "hpa19"
    said = cli(*command, tmp_path / "n.cytoloc", "--check", "--examples", "http://127.0.0.1:9")
    assert (said.code, "cannot be downloaded" in said.err) == (1, True)
    assert (tmp_path / "n.cytoloc").exists()
    said = cli(*command, tmp_path / "o.cytoloc", "--examples", site)
    assert (said.code, "--examples needs --check" in said.err) == (2, True)
    assert not (tmp_path / "o.cytoloc").exists()
