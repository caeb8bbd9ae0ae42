"""SubCell: the answers of the authors' code, adoption, and which images it takes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from torch import Tensor

import cytoloc as cl
from cytoloc.adoption.subcell import has_etag, refuse_other_kinds
from cytoloc.errors import ImageError, ModelCaution, SettingsError, WeightsError
from cytoloc.models.subcell import network_of_files
from cytoloc.simulate.files import write_kaggle_field
from tests.adoption.goldens import drawn, waves
from tests.conftest import Cli

HIDDEN, UNITS, MLP = 128, 32, 512


def encoder(channels: int) -> dict[str, Tensor]:
    """Return the tensors of a small encoder, with the names of the authors."""
    shapes: dict[str, tuple[int, ...]] = {
        "encoder.embeddings.cls_token": (1, 1, HIDDEN),
        "encoder.embeddings.position_embeddings": (1, 17, HIDDEN),
        "encoder.embeddings.patch_embeddings.projection.weight": (HIDDEN, channels, 16, 16),
        "encoder.embeddings.patch_embeddings.projection.bias": (HIDDEN,),
        "encoder.layernorm.weight": (HIDDEN,),
        "encoder.layernorm.bias": (HIDDEN,),
    }
    matrices = {"pool_model.attention_v.1": (UNITS, HIDDEN), "pool_model.attention_u.1": (UNITS, HIDDEN)}
    matrices["pool_model.attention"] = (2, UNITS)
    for number in range(2):
        layer = f"encoder.encoder.layer.{number}"
        matrices |= {f"{layer}.attention.attention.{part}": (HIDDEN, HIDDEN) for part in ("query", "key", "value")}
        matrices[f"{layer}.attention.output.dense"] = (HIDDEN, HIDDEN)
        matrices[f"{layer}.intermediate.dense"] = (MLP, HIDDEN)
        matrices[f"{layer}.output.dense"] = (HIDDEN, MLP)
        for norm in ("layernorm_before", "layernorm_after"):
            shapes |= {f"{layer}.{norm}.{kind}": (HIDDEN,) for kind in ("weight", "bias")}
    for name, shape in matrices.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {name: drawn(name, shape) for name, shape in shapes.items()}


def classifier(seed: int) -> dict[str, Tensor]:
    """Return the tensors of a classifier, with the names of the authors."""
    shapes: dict[str, tuple[int, ...]] = {"0.weight": (512, 2 * HIDDEN), "3.weight": (256, 512), "6.weight": (31, 256)}
    shapes |= {name.replace("weight", "bias"): shape[:1] for name, shape in shapes.items()}
    return {name: drawn(f"seed{seed}.{name}", shape) for name, shape in shapes.items()}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, list[Path]]:
    """Return the files of an encoder with four channels and two classifiers."""
    folder = tmp_path / "weights"
    folder.mkdir()
    torch.save(encoder(4), folder / "all_channels_MAE-CellS-ProtS-Pool.pth")
    heads = [folder / f"all_channels_MAE_MLP_classifier_seed_{seed}.pth" for seed in (0, 1)]
    for seed, head in enumerate(heads):
        torch.save(classifier(seed), head)
    return folder / "all_channels_MAE-CellS-ProtS-Pool.pth", heads


@pytest.mark.parametrize(
    ("channels", "size", "embedding", "probabilities"),
    [
        (4, 64, (0.737811, 0.545740, -1.149512, 0.153957), (0.143833, 0.838704, 0.388986, 0.523477, 0.158644)),
        (4, 96, (0.950442, 0.588270, -1.162359, -0.059667), (0.152401, 0.865641, 0.337262, 0.512995, 0.155608)),
        (2, 64, (-0.349089, 0.047521, 0.248256, -0.351115), (0.325797, 0.520107, 0.364126, 0.624145, 0.158163)),
        (2, 96, (-0.392266, 0.104667, 0.161019, -0.244255), (0.333353, 0.600724, 0.408122, 0.582818, 0.217544)),
    ],
)
def test_the_network_gives_the_answers_of_the_authors_code(
    channels: int, size: int, embedding: tuple[float, ...], probabilities: tuple[float, ...]
) -> None:
    network = network_of_files(encoder(channels), [classifier(0), classifier(1)], size=size, called="encoder")
    pixels = torch.from_numpy(waves(1, channels, size))
    with torch.inference_mode():
        features = network.features(pixels)
        assert isinstance(features, Tensor)
        found = network.head(features).sigmoid()
    assert features[0, :4, 0, 0].numpy() == pytest.approx(embedding, abs=1e-5)
    assert found[0, :5].numpy() == pytest.approx(probabilities, abs=1e-5)


def test_a_black_image_and_extreme_logits_stay_finite() -> None:
    head = classifier(0)
    head["6.bias"] += 200
    network = network_of_files(encoder(2), [head], size=64, called="encoder")
    with torch.inference_mode():
        logits = network(torch.zeros(1, 2, 64, 64, dtype=torch.uint8))
    assert torch.isfinite(logits).all()
    assert (logits > 150).all()


def small_cells(folder: Path, *, pixel_um: float | None, size: int = 64, masked: bool = True) -> cl.Dataset:
    """Return a dataset of six cells."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    labels = np.zeros((200, 200), np.uint8)
    for number in range(6):
        row, column = divmod(number, 3)
        labels[20 + 90 * row : 70 + 90 * row, 10 + 60 * column : 60 + 60 * column] = number + 1
    write_kaggle_field(folder / "images", "a", rng.integers(0, 256, (4, 200, 200), dtype=np.uint8))
    tifffile.imwrite(folder / "a_cells.tif", labels)
    crops = cl.CropOptions(size=size, window_px=64, masked=masked)
    method = cl.LabelFiles(folder=folder)
    return cl.segment_cells(folder / "images", folder / "cells", method=method, crops=crops, pixel_um=pixel_um)


def test_an_adopted_bundle_predicts_and_embeds_cells(files: tuple[Path, list[Path]], tmp_path: Path) -> None:
    encoder_file, heads = files
    out = cl.adopt_subcell(encoder_file, heads, tmp_path / "s.cytoloc", channels="rybg", size=64)
    model = cl.load(out, engine="torch", device="cpu")
    assert model.channels == ("microtubules", "er", "nucleus", "protein")
    assert len(model.label_set) == 31
    digest = hashlib.sha256(encoder_file.read_bytes()).hexdigest()
    assert model.info.provenance["adopted"]["sha256"] == digest
    assert all(hashlib.sha256(head.read_bytes()).hexdigest() in model.info.card for head in heads)
    assert "License**: MIT" in model.info.card
    # The pixel size that a smaller image of the same cell has.
    cells = small_cells(tmp_path / "one", pixel_um=0.8)
    with pytest.warns(ModelCaution, match="single cells"), pytest.warns(ModelCaution, match="was trained on all"):
        found = model.predict(cells)
    order = [cells.channels.index(name) for name in model.channels]
    images = torch.from_numpy(np.ascontiguousarray(cells[:][:, order]))
    network = network_of_files(encoder(4), [classifier(0), classifier(1)], size=64, called="encoder")
    with torch.inference_mode():
        expected = network(images).sigmoid().numpy()
    assert found.probabilities == pytest.approx(expected, abs=1e-6)
    for engine in ("openvino", "onnx"):
        # Each engine refuses a graph that it computes in another way.
        with pytest.warns(ModelCaution, match="single cells"), pytest.warns(ModelCaution, match="was trained on all"):
            same = cl.load(out, engine=engine, device="cpu").predict(cells)
        assert same.provenance["engine"] == engine
        assert same.probabilities == pytest.approx(expected, abs=1e-4)
    assert cl.embed_sources(model, cl.open_sources([cells.folder])).features.shape == (6, 2 * HIDDEN)
    maps = cl.attention_maps(model, images.numpy())
    assert maps.shape == (6, 2, 4, 4)
    assert (maps.sum(axis=(2, 3)) < 1).all()
    with pytest.raises(ImageError, match="must be uint8 of shape"):
        cl.attention_maps(model, images.numpy()[:, :3])


def test_other_images_are_refused(files: tuple[Path, list[Path]], tmp_path: Path) -> None:
    model = cl.load(cl.adopt_subcell(*files, tmp_path / "s.cytoloc", channels="rybg", size=64), device="cpu")
    unknown = small_cells(tmp_path / "unknown", pixel_um=None)
    coarse = small_cells(tmp_path / "coarse", pixel_um=1.3)
    whole = small_cells(tmp_path / "whole", pixel_um=0.8, masked=False)
    for inputs, message in (
        (unknown, "6 cells of unknown pixel size"),
        (coarse, "cells of 1.3 µm per pixel, but the model needs 64 px of 0.8 µm"),
        (whole, "cells that are not masked"),
        (tmp_path / "whole" / "images", "whole fields, but the model needs single cells"),
        (np.zeros((1, 4, 128, 128), np.uint8), "128 x 128 px, but the model needs cells of 64 px"),
    ):
        with pytest.raises(ImageError, match=message):
            model.predict(inputs)
    with pytest.raises(ImageError, match="not masked"):
        cl.embed_sources(model, cl.open_sources([whole.folder]))


def test_wrong_files_are_refused(files: tuple[Path, list[Path]], tmp_path: Path) -> None:
    encoder_file, heads = files
    out = tmp_path / "s.cytoloc"
    lacking = encoder(4)
    del lacking["encoder.layernorm.bias"]
    torch.save(lacking, tmp_path / "lacking.pth")
    torch.save({**encoder(4), "decoder.weight": torch.zeros(1)}, tmp_path / "more.pth")
    torch.save({**encoder(4), "encoder.layernorm.bias": torch.full((HIDDEN,), torch.nan)}, tmp_path / "nan.pth")
    for file, message in (
        ("lacking.pth", "has no tensor encoder.layernorm.bias"),
        ("more.pth", "tensors that SubCell does not have, such as decoder.weight"),
        ("nan.pth", "values that are not finite"),
        ("absent.pth", "does not exist"),
    ):
        with pytest.raises(WeightsError, match=message):
            cl.adopt_subcell(tmp_path / file, heads, out, channels="rybg", size=64)
    with pytest.raises(WeightsError, match="is not one of SubCell"):
        cl.adopt_subcell(encoder_file, [encoder_file], out, channels="rybg", size=64)
    with pytest.raises(WeightsError, match="has the SHA-256"):
        cl.adopt_subcell(encoder_file, heads, out, channels="rybg", size=64, sha256="0" * 64)
    with pytest.raises(WeightsError, match="does not have the ETag"):
        cl.adopt_subcell(encoder_file, heads, out, channels="rybg", size=64, etag="0" * 32)
    two = tmp_path / "two.pth"
    torch.save(encoder(2), two)
    with pytest.raises(WeightsError, match="takes 2 channels, but rybg has 4"):
        cl.adopt_subcell(two, heads, out, channels="rybg", size=64)
    with pytest.raises(SettingsError, match="different classifiers"):
        cl.adopt_subcell(encoder_file, [heads[0], heads[0]], out, channels="rybg", size=64)
    assert not out.exists()


@pytest.mark.parametrize(
    ("encoder_name", "head_name", "channels", "message"),
    [
        ("bg_x.pth", "DNA-Protein_ViT_MLP_classifier_seed_0.pth", "bg", None),
        ("ER-DNA-Protein_MAE-CellS-ProtS-Pool.pth", "ER-DNA-Protein_MAE_MLP_classifier_seed_0.pth", "ybg", None),
        ("DNA-Protein_MAE-CellS-ProtS-Pool.pth", "a.pth", "rbg", "is of the channels bg, not rbg"),
        ("DNA-Protein_MAE-CellS-ProtS-Pool.pth", "DNA-Protein_ViT_MLP_classifier_seed_0.pth", "bg", "MAE and ViT"),
    ],
)
def test_file_names_that_do_not_fit_are_refused(
    encoder_name: str, head_name: str, channels: str, message: str | None
) -> None:
    if message is None:
        refuse_other_kinds(encoder_name, [head_name], channels)
        return
    with pytest.raises(SettingsError, match=message):
        refuse_other_kinds(encoder_name, [head_name], channels)


def test_etags_of_uploads_in_parts() -> None:
    content = bytes(9 * 2**20)
    parts = [hashlib.md5(content[: 8 * 2**20]).digest(), hashlib.md5(content[8 * 2**20 :]).digest()]
    assert has_etag(content, f'"{hashlib.md5(b"".join(parts)).hexdigest()}-2"')
    assert not has_etag(content, f"{hashlib.md5(content).hexdigest()}-2")


def test_the_command_says_what_to_do_next(files: tuple[Path, list[Path]], tmp_path: Path, cli: Cli) -> None:
    encoder_file, heads = files
    for head in heads:
        head.rename(tmp_path / head.name)
    folder = tmp_path / "heads"
    folder.mkdir()
    for head in heads:
        (tmp_path / head.name).rename(folder / head.name)
    options = ("--channels", "rybg", "--encoder", encoder_file, "--heads", folder, "--size", 64)
    done = cli("adopt", "subcell", *options, "--out", tmp_path / "s.cytoloc")
    assert done.code == 0, done.err
    assert "subcell rybg, 2 of 10 classifiers, 64 px, 31 locations, license MIT" in done.out
    assert "cytoloc segment INPUT --size 64 --window-um 51.2 --out cells" in done.out
    empty = tmp_path / "empty"
    empty.mkdir()
    wrong = cli("adopt", "subcell", *options[:4], "--heads", empty, "--out", tmp_path / "b.cytoloc")
    assert wrong.code == 1
    assert "has no .pth files" in wrong.err


def noise(size: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (1, 4, size, size), dtype=np.uint8)


def test_one_channel_cannot_be_scaled_by_itself() -> None:
    network = network_of_files(encoder(4), [classifier(0)], size=64, called="encoder")
    images = torch.from_numpy(noise(64))
    dimmed = images.clone()
    dimmed[:, 3] //= 4
    with torch.inference_mode():
        # Joint scaling keeps the brightness of a channel relative to the others; a factor for all channels is removed.
        assert not torch.allclose(network(images), network(dimmed), atol=1e-2)
        halved = torch.from_numpy((noise(64) // 2 * 2) // 2)
        assert torch.allclose(network(torch.from_numpy(noise(64) // 2 * 2)), network(halved), atol=1e-4)
