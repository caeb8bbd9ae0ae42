from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from cytoloc.curation.registration import registered_correlation
from cytoloc.dataset.fields import FieldRow
from cytoloc.dataset.importing import import_fields
from cytoloc.dataset.sources.hpa import HpaSource
from cytoloc.dataset.sources.kaggle import KaggleSource
from cytoloc.dataset.store import Dataset
from cytoloc.errors import CytolocError, OutputExistsError, TableError
from cytoloc.images.hashes import TRANSFORMS, turned
from cytoloc.images.scale import Scaling, scale_field
from cytoloc.simulate.cells import Phase
from cytoloc.simulate.field import draw_field, photograph
from cytoloc.simulate.files import simulate_hpa, simulate_kaggle
from cytoloc.simulate.patterns import PATTERNS
from cytoloc.simulate.plan import KINDS, Design, FieldPlan, plan_study, read_frequencies
from cytoloc.simulate.stains import StainedScene, draw_stained
from cytoloc.simulate.study import simulate_dataset

TRAINING_COUNTS = (
    12885, 1254, 3621, 1561, 1858, 2513, 1008, 2822, 53, 45, 28, 1093, 688, 537,
    1066, 21, 530, 210, 902, 1482, 172, 3777, 802, 2965, 322, 8228, 328, 11,
)  # fmt: skip
"""Fields of each location among the 31,072 training fields of the 2018 Kaggle competition."""


@pytest.fixture(scope="module")
def scene() -> StainedScene:
    return draw_stained(np.random.default_rng(1), 256, dividing=("metaphase", "telophase"))


def test_a_scene_is_made_of_cells(scene: StainedScene) -> None:
    assert len(scene.cells) >= 1
    assert (scene.cell_map[scene.nucleus_map > 0] == scene.nucleus_map[scene.nucleus_map > 0]).all()
    assert 0.05 < (scene.cell_map > 0).mean() <= 1
    assert scene.nucleoli[scene.nucleus_map == 0].max() == 0
    assert scene.microtubules[scene.cell_map == 0].mean() < 0.1 * scene.microtubules[scene.cytoplasm].mean()
    er_near = scene.er[scene.cytoplasm & (scene.from_nucleus < 4)].mean()
    er_far = scene.er[scene.cytoplasm & (scene.from_nucleus > 8)].mean()
    assert er_near > er_far


@pytest.mark.parametrize("location", sorted(PATTERNS))
def test_each_pattern_draws_something_inside_cells(scene: StainedScene, location: int) -> None:
    plane = PATTERNS[location](scene, np.random.default_rng(location))
    assert plane.shape == (256, 256)
    assert plane.dtype == np.float32
    assert 0 <= plane.min() < 0.05
    assert 0.3 < plane.max() <= 1.01
    in_cells = plane[scene.cell_map > 0].sum() / plane.sum()
    assert in_cells > 0.75


@pytest.mark.parametrize("location", [0, 2, 3, 4, 5])
def test_nuclear_patterns_lie_in_nuclei(scene: StainedScene, location: int) -> None:
    plane = PATTERNS[location](scene, np.random.default_rng(location))
    assert plane[scene.nucleus_map > 0].sum() > 0.95 * plane.sum()


@pytest.mark.parametrize("location", [7, 8, 9, 10, 11, 20, 23, 25, 26])
def test_cytoplasmic_patterns_leave_nuclei_free(scene: StainedScene, location: int) -> None:
    plane = PATTERNS[location](scene, np.random.default_rng(location))
    assert plane[scene.nucleus_map > 0].mean() < 0.2 * plane[scene.cytoplasm].mean()


@pytest.mark.parametrize(("location", "phase"), [(16, "telophase"), (17, "metaphase")])
def test_only_dividing_cells_have_bridges_and_spindles(location: int, phase: Phase) -> None:
    scene = draw_stained(np.random.default_rng(5), 256, dividing=[phase])
    plane = PATTERNS[location](scene, np.random.default_rng(0))
    bright = scene.cell_map[plane > 0.5]
    phases = {cell.number: cell.phase for cell in scene.cells}
    assert bright.size > 5
    assert {phases.get(int(number), phase) for number in bright[bright > 0]} == {phase}


def test_every_location_has_a_pattern() -> None:
    assert sorted(PATTERNS) == list(range(28))


def test_patterns_differ_from_each_other(scene: StainedScene) -> None:
    planes = np.stack([PATTERNS[i](scene, np.random.default_rng(0)).ravel() for i in sorted(PATTERNS)])
    correlation = np.corrcoef(planes) - np.eye(len(planes))
    assert correlation.max() < 0.9


def test_the_same_seed_gives_the_same_bytes_in_any_order(study: Dataset) -> None:
    plans = plan_study(Design(n_fields=40, seed=3, size=64))
    for number in (31, 4, 0):
        np.testing.assert_array_equal(draw_field(plans[number], size=64), study[number])
    assert (draw_field(replace(plans[4], seed=4), size=64) != study[4]).any()


def test_two_studies_of_one_seed_are_the_same(study: Dataset, tmp_path: Path) -> None:
    again = simulate_dataset(tmp_path / "again.dataset", Design(n_fields=40, seed=3, size=64))
    assert again.fingerprint == study.fingerprint


def test_fields_of_a_well_share_their_locations(study: Dataset) -> None:
    by_well: dict[tuple[str, str], set[tuple[int, ...]]] = {}
    for plate, well, labels in study.fields.select("plate", "well", "labels").iter_rows():
        by_well.setdefault((plate, well), set()).add(tuple(labels))
    assert all(len(labels) == 1 for labels in by_well.values())
    assert 40 / 4 <= len(by_well) < 40


def test_frequencies_and_combinations_are_those_of_the_real_training_set() -> None:
    plans = plan_study(Design(n_fields=12_000, seed=0, size=64))
    wells = {(plan.row.plate, plan.row.well): plan.row.labels or () for plan in plans}
    counts = Counter(label for labels in wells.values() for label in labels)
    shares = np.array([counts[i] for i in range(28)]) / len(wells)
    real = np.array(TRAINING_COUNTS) / 31_072
    assert abs(shares - real).max() < 0.03
    assert abs(np.mean([len(labels) for labels in wells.values()]) - sum(TRAINING_COUNTS) / 31_072) < 0.08
    together = sum({0, 25} <= set(labels) for labels in wells.values()) / len(wells)
    apart = sum({0, 23} <= set(labels) for labels in wells.values()) / len(wells)
    assert together > 2 * apart  # nucleoplasm goes with cytosol far more often than with mitochondria


def test_evenness_makes_rare_locations_frequent() -> None:
    def fewest(evenness: float) -> int:
        plans = plan_study(Design(n_fields=4000, seed=0, size=64, evenness=evenness))
        return min(Counter(location for plan in plans for location in plan.locations).get(i, 0) for i in range(28))

    assert fewest(0.0) < 5 < fewest(0.5) < 50 < fewest(1.0)


def test_near_duplicates_are_what_they_are_said_to_be() -> None:
    plans = plan_study(Design(n_fields=60, seed=1, size=128, duplicates=0.3))
    copies = [plan for plan in plans if plan.copy_of]
    assert len(copies) == 18
    assert {plan.kind for plan in copies} == set(KINDS)
    for plan in copies[:8]:
        assert plan.copy_of is not None
        assert plan.row.labels == plan.copy_of.row.labels
        one, other = draw_field(plan, size=128), draw_field(plan.copy_of, size=128)
        ways = TRANSFORMS if plan.kind == "turned" else TRANSFORMS[:1]
        assert max(registered_correlation(turned(other, way), one) for way in ways) > 0.9


def test_several_labels_show_both_patterns() -> None:
    def protein(labels: tuple[int, ...]) -> np.ndarray:
        row = FieldRow(id="x", source="test", original_px=128, original_width_px=128, labels=labels)
        return np.asarray(draw_field(FieldPlan(0, 0, row, labels, (1.0,) * len(labels)), size=128)[1], float)

    nuclei, both = protein((0,)), protein((0, 25))
    scene = draw_stained(np.random.default_rng([0, 1, 0]), 128)
    assert both[scene.cytoplasm].mean() > 2 * nuclei[scene.cytoplasm].mean()
    assert both[scene.nucleus_map > 0].mean() > 2 * both[scene.cell_map == 0].mean()


def test_kaggle_files_hold_the_same_fields(tmp_path: Path) -> None:
    simulate_kaggle(tmp_path / "files", Design(n_fields=6, seed=3, size=64))
    source = KaggleSource(tmp_path / "files", labels=tmp_path / "files/labels.csv", scaling=Scaling(size=64))
    dataset = import_fields(source, tmp_path / "a.dataset", size=64).dataset
    plans = plan_study(Design(n_fields=6, seed=3, size=64))
    np.testing.assert_array_equal(dataset.read(range(6)), [draw_field(plan, size=64) for plan in plans])
    pairs = [line.split(",") for line in (tmp_path / "files/pairs.csv").read_text().splitlines()[1:]]
    wells = {plan.row.id: (plan.row.plate, plan.row.well) for plan in plans}
    assert pairs
    assert all(wells[a] == wells[b] for a, b in pairs)


def test_images_of_16_bits_hold_the_same_fields(tmp_path: Path) -> None:
    design = Design(n_fields=8, seed=3, size=64, duplicates=0.25)
    simulate_kaggle(tmp_path / "deep", design, bits=16)
    for plan in plan_study(design):
        coarse = draw_field(plan, size=64).astype(int)
        deep = [
            cv2.imread(str(tmp_path / "deep" / f"{plan.row.id}_{color}.png"), cv2.IMREAD_UNCHANGED)
            for color in ("red", "green", "blue", "yellow")
        ]
        planes = np.array(deep)
        assert planes.dtype == np.uint16
        # A copy's JPEG codes grays that are cut, not rounded.
        assert np.abs(planes / 257 - coarse).max() < (20 if plan.kind == "jpeg" else 1.5)
    assert len(np.unique(planes[0])) > 256


@pytest.mark.parametrize("draw", [simulate_kaggle, simulate_hpa])
def test_images_that_were_stopped_go_on_and_are_the_same(tmp_path: Path, draw: Callable[..., None]) -> None:
    design = Design(n_fields=6, seed=3, size=64)
    draw(tmp_path / "whole", design)

    def stop(done: int, _total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "stopped", design, progress=stop)
    with pytest.raises(OutputExistsError, match="other settings"):
        draw(tmp_path / "stopped", replace(design, seed=4))
    draw(tmp_path / "stopped", design)
    contents = [
        {path.relative_to(tmp_path / name): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("whole", "stopped")
    ]
    assert contents[0] == contents[1]
    assert len(contents[0]) > 24
    with pytest.raises(OutputExistsError, match="already exists"):
        draw(tmp_path / "whole", design)


def test_renderings_are_imported_as_the_dataset_of_their_fields(tmp_path: Path) -> None:
    design = Design(n_fields=5, seed=3, size=256)
    simulate_hpa(tmp_path / "hpa", design)
    source = HpaSource(tmp_path / "hpa/images", labels=tmp_path / "hpa/labels.csv", scaling=Scaling(size=64))
    dataset = import_fields(source, tmp_path / "h.dataset", size=64).dataset
    plans = plan_study(design)
    assert dataset.fields["labels"].to_list() == [list(plan.locations) for plan in plans]
    assert dataset.fields["well"].to_list() == [plan.row.well for plan in plans]
    drawn = np.stack([scale_field(draw_field(plan, size=256), Scaling(size=64)).image for plan in plans])
    for role in range(4):
        pairs = zip(drawn[:, role], dataset.read(range(5))[:, role], strict=True)
        worst = min(np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in pairs)
        assert worst > 0.9, role


def test_photographs_may_be_larger_than_the_fields_of_an_dataset(tmp_path: Path) -> None:
    design = Design(n_fields=6, seed=3, size=64, original_px=128, duplicates=0.3)
    dataset = simulate_dataset(tmp_path / "a.dataset", design)
    assert dataset.fields["original_px"].to_list() == [128] * 6
    for plan, field in zip(plan_study(design), dataset, strict=True):
        large = photograph(plan)
        assert large.shape == (4, 128, 128)
        np.testing.assert_array_equal(field, scale_field(large, Scaling(size=64)).image)
    simulate_kaggle(tmp_path / "files", design)
    for path in (tmp_path / "files").glob("*.png"):
        with Image.open(path) as image:
            assert image.size == (128, 128)


@pytest.mark.parametrize(("n_fields", "seed", "size"), [(0, 0, 64), (-1, 0, 64), (1, -1, 64), (1, 0, 16), (1, 0, 9000)])
def test_impossible_numbers_are_refused(tmp_path: Path, n_fields: int, seed: int, size: int) -> None:
    with pytest.raises(CytolocError):
        simulate_dataset(tmp_path / "a.dataset", Design(n_fields=n_fields, seed=seed, size=size))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "design",
    [
        Design(n_fields=4, seed=0, size=64, duplicates=1.0),
        Design(n_fields=1, seed=0, size=64, duplicates=0.6),
        Design(n_fields=4, seed=0, size=64, evenness=1.5),
        Design(n_fields=4, seed=0, size=64, original_px=63),
    ],
)
def test_impossible_designs_are_refused(design: Design) -> None:
    with pytest.raises(CytolocError):
        plan_study(design)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Target,share\n0,0.5\n25,0.4\n", "the shares sum to 0.9 instead of 1"),
        ("Target,share\n0,much\n", "must be numbers"),
        ("Target,share\n0,nan\n", "must be numbers"),
        ("Target,share\n0,-1\n1,2\n", "must be numbers"),
        ("Target,share\n99,1\n", "'99' is not a location"),
        ("Target\n0\n", "It has|it has|needs Target and share"),
    ],
)
def test_bad_frequencies_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "shares.csv"
    path.write_text(content)
    with pytest.raises(TableError, match=message):
        read_frequencies(path)


def test_own_frequencies_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / "shares.csv"
    path.write_text("Target,share\n7,0.25\n3 21,0.75\n")
    plans = plan_study(Design(n_fields=200, seed=0, size=64, label_sets=read_frequencies(path)))
    assert {location for plan in plans for location in plan.row.labels or ()} == {3, 7, 21}
