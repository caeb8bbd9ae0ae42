from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from cytoloc.predict.tta import dihedral
from cytoloc.training.augment import (
    Augmentation,
    area_resized,
    blurred,
    crops,
    gamma_changed,
    lit,
    mixup_weight,
    noisy,
    random_crops,
    random_dihedral,
    random_light,
    resampled,
    rotations,
    tiled,
    tilts,
    zooms,
)
from cytoloc.training.distributed import Processes


def images(count: int = 3, edge: int = 24, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 4, edge, edge), dtype=torch.uint8, generator=generator)


def smooth(edge: int = 60) -> torch.Tensor:
    """Return images without fine detail, which survive resampling."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, edge), torch.linspace(-1, 1, edge), indexing="ij")
    planes = [
        torch.exp(-4 * ((x - a) ** 2 + (y - b) ** 2)) for a, b in ((0.3, 0.1), (-0.4, 0.3), (0, -0.5), (0.2, 0.6))
    ]
    return (255 * torch.stack(planes)).round().to(torch.uint8)[None]


def difference(one: torch.Tensor, other: torch.Tensor) -> int:
    return int((one.int() - other.int()).abs().max())


def test_nothing_asked_for_changes_nothing() -> None:
    none = torch.zeros(3)
    matrices = rotations(none) @ tilts(torch.zeros(3, 2)) @ zooms(none + 1, torch.rand(3, 2))
    assert torch.equal(resampled(images(), matrices), images())
    assert torch.equal(lit(images(), none + 0.5, none + 1), images())
    as_they_are = torch.arange(9).repeat(3, 1)
    assert torch.equal(tiled(images(), as_they_are, torch.zeros(3, 9, dtype=torch.long)), images())


def test_a_quarter_turn_is_a_quarter_turn() -> None:
    turned = resampled(images(), rotations(torch.tensor([90.0, 180.0, -90.0])))
    for one, number, field in zip(turned, (1, 2, 3), images(), strict=True):
        assert difference(one, dihedral(field[None], number)[0]) <= 1


def test_turning_back_gives_the_image_again() -> None:
    there = resampled(smooth(), rotations(torch.tensor([17.0])))
    again = resampled(there, rotations(torch.tensor([-17.0])))
    middle = slice(15, 45)
    assert difference(there[..., middle, middle], smooth()[..., middle, middle]) > 20
    assert difference(again[..., middle, middle], smooth()[..., middle, middle]) <= 5


@pytest.mark.parametrize(("center", "rows", "columns"), [((-1, -1), 0, 0), ((1, -1), 0, 12), ((0, 1), 12, 6)])
def test_zooming_in_shows_the_part_that_the_center_says(center: tuple[int, int], rows: int, columns: int) -> None:
    seen = resampled(images(1), zooms(torch.tensor([2.0]), torch.tensor([center]).float()))
    part = images(1)[..., rows : rows + 12, columns : columns + 12].float()
    expected = torch.nn.functional.interpolate(part, scale_factor=2, mode="bilinear", align_corners=False)
    inner = slice(1, -1)
    assert difference(seen[..., inner, inner], expected.round().to(torch.uint8)[..., inner, inner]) <= 1


def test_zooming_out_mirrors_the_image_at_its_rim() -> None:
    seen = resampled(images(1), zooms(torch.tensor([0.5]), torch.zeros(1, 2)))
    assert difference(seen[..., 6:18, 6:18], resized_by_two(images(1))) <= 1
    assert difference(seen[..., 5, :], seen[..., 6, :]) <= 1


def resized_by_two(fields: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(fields.float(), 2).round().to(torch.uint8)


def test_a_tilt_brings_one_edge_near() -> None:
    lines = torch.zeros(1, 1, 40, 40, dtype=torch.uint8)
    lines[..., 10:30, :] = 255
    tilted = resampled(lines, tilts(torch.tensor([[0.2, 0.0]])))
    heights = (tilted[0, 0] > 127).sum(dim=0)
    # The right one.
    assert heights[0] < 18 < 22 < heights[-1]
    assert abs(int(heights[20]) - 20) <= 1


def test_tiles_change_places_and_views_and_keep_every_pixel() -> None:
    field = images(1, 26)
    order = torch.tensor([[8, 0, 1, 2, 3, 4, 5, 6, 7]])
    views = torch.tensor([[1, 0, 0, 0, 4, 0, 0, 0, 0]])
    changed = tiled(field, order, views)
    assert torch.equal(changed[..., :8, :8], dihedral(field[..., 16:24, 16:24], 1))
    assert torch.equal(changed[..., :8, 8:16], field[..., :8, :8])
    assert torch.equal(changed[..., 8:16, 8:16], dihedral(field[..., 8:16, :8], 4))
    assert torch.equal(changed[..., 24:], field[..., 24:])
    assert torch.equal(changed.flatten(2).sort().values, field.flatten(2).sort().values)


def test_light_moves_gray_as_fastai_does_and_keeps_black_and_white() -> None:
    ramp = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    values = np.arange(1, 255) / 255
    for brightness, contrast in ((0.6, 1.0), (0.5, 1.3), (0.42, 0.8)):
        seen = lit(ramp, torch.tensor([brightness]), torch.tensor([contrast])).flatten().tolist()
        logits = np.log(values / (1 - values)) * contrast + np.log(brightness / (1 - brightness))
        np.testing.assert_allclose(seen[1:255], 255 / (1 + np.exp(-logits)), atol=0.51)
        assert (seen[0], seen[255]) == (0, 255)
        assert seen == sorted(seen)


def test_light_changes_only_some() -> None:
    gray = torch.full((400, 1, 2, 2), 100, dtype=torch.uint8)
    seen = random_light(gray, most=0.2, p=0.5, generator=torch.Generator().manual_seed(0))
    unchanged = int((seen == 100).flatten(1).all(dim=1).sum())
    assert 70 < unchanged < 170
    assert 65 < int(seen.min()) < 90 < 110 < int(seen.max()) < 135


def test_each_channel_has_its_own_gamma_blur_and_noise() -> None:
    batch = smooth().repeat(2, 1, 1, 1)
    values = torch.tensor([[0.0, 0.5, 1.0, 2.0], [1.0, 0.0, 0.0, 0.0]])
    bent = gamma_changed(batch, values.exp())
    expected = 255 * (batch / 255) ** values.exp()[..., None, None]
    assert float((bent - expected).abs().max()) <= 0.5 + 1e-3

    wide = blurred(batch, values)
    for channel in (1, 2, 3):
        sigma = float(values[0, channel])
        other = cv2.GaussianBlur(batch[0, channel].numpy(), (13, 13), sigma, borderType=cv2.BORDER_REFLECT_101)
        assert difference(wide[0, channel], torch.from_numpy(other)) <= 1
    assert torch.equal(wide[values == 0], batch[values == 0])
    assert torch.equal(wide[1], blurred(batch[1:], values[1:])[0])
    assert torch.equal(blurred(batch, 0 * values), batch)

    gray = torch.full((2, 4, 60, 60), 128, dtype=torch.uint8)
    rough = noisy(gray, 5 * values, seeds=torch.tensor([1, 2])).float()
    np.testing.assert_allclose(rough.std(dim=(2, 3)), 5 * values, atol=0.3)
    assert torch.equal(rough[0], noisy(gray, 5 * values, seeds=torch.tensor([1, 3]))[0])


def test_optics_change_the_stated_share_of_channels_in_both_directions() -> None:
    gray = torch.full((200, 2, 8, 8), 64, dtype=torch.uint8)
    plain = Augmentation(flips=False, turns=False, optics_p=0.25)
    for augmentation in (replace(plain, gamma=0.5), replace(plain, noise=6.0)):
        seen = augmentation(gray, generator=torch.Generator().manual_seed(0))
        assert 0.17 < float((seen != gray).flatten(2).any(dim=2).float().mean()) < 0.33
        assert int(seen.min()) < 58 < 70 < int(seen.max())


def test_squares_come_from_everywhere_in_a_field() -> None:
    place = torch.arange(36, dtype=torch.uint8).reshape(1, 1, 6, 6).repeat(500, 1, 1, 1)
    cut = random_crops(place, size=4, generator=torch.Generator().manual_seed(0))
    assert cut.shape == (500, 1, 4, 4)
    assert set(cut[:, 0, 0, 0].tolist()) == {row * 6 + column for row in range(3) for column in range(3)}
    fixed = crops(place[:2], torch.tensor([0, 2]), torch.tensor([1, 0]), size=4)
    assert torch.equal(fixed[1], place[0, :, 2:6, 0:4])


def test_a_smaller_image_is_the_mean_of_what_it_covers() -> None:
    assert torch.equal(area_resized(images(), 12), resized_by_two(images()))
    assert torch.equal(area_resized(images(), 24), images())


EVERYTHING = Augmentation(
    rotate_degrees=20,
    zoom=1.2,
    warp=0.1,
    zoom_crop=(0.8, 1.2),
    lighting=0.1,
    gamma=0.3,
    blur=1.0,
    noise=4.0,
    tiles=0.5,
    crop_px=18,
)


def test_everything_together_depends_on_the_seed_alone() -> None:
    one, same, other = (EVERYTHING(images(), generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert one.shape == (3, 4, 18, 18)
    assert one.dtype == torch.uint8
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    black, quiet = torch.zeros(2, 4, 24, 24, dtype=torch.uint8), replace(EVERYTHING, noise=0.0)
    assert torch.equal(quiet(black, generator=torch.Generator()), torch.zeros(2, 4, 18, 18, dtype=torch.uint8))


@pytest.mark.parametrize("count", [2, 3])
def test_images_are_augmented_alike_however_many_processes_share_them(count: int) -> None:
    batch = images(6)
    whole = EVERYTHING(batch, generator=torch.Generator().manual_seed(3))
    shares = [Processes(per_node=count, rank=rank) for rank in range(count)]
    parts = [
        EVERYTHING(processes.shard(batch), generator=torch.Generator().manual_seed(3), processes=processes)
        for processes in shares
    ]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(whole[:3], whole[3:])


def test_what_is_not_asked_for_draws_no_chance() -> None:
    plain = Augmentation()
    generator = torch.Generator().manual_seed(5)
    plain(images(), generator=generator)
    expected = torch.Generator().manual_seed(5)
    torch.randint(0, 2, (3,), generator=expected)
    torch.randint(0, 4, (3,), generator=expected)
    assert torch.equal(generator.get_state(), expected.get_state())


def test_shares_of_a_blend_are_beta_distributed_above_a_half() -> None:
    generator = torch.Generator().manual_seed(0)
    shares = np.array([mixup_weight(0.4, generator=generator) for _ in range(2000)])
    assert shares.min() >= 0.5
    assert shares.max() <= 1
    rng = np.random.default_rng(1)
    drawn = rng.beta(0.4, 0.4, 100_000)
    np.testing.assert_allclose(shares.mean(), np.maximum(drawn, 1 - drawn).mean(), atol=0.01)


def test_augmentation_uses_every_allowed_view_and_no_other() -> None:
    field = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4)
    batch = field.repeat(400, 1, 1, 1)
    for flips, turns, allowed in ((True, True, range(8)), (True, False, (0, 4)), (False, True, range(4))):
        generator = torch.Generator().manual_seed(0)
        augmented = random_dihedral(batch, flips=flips, turns=turns, generator=generator)
        known = {tuple(dihedral(field, number).flatten().tolist()): number for number in range(8)}
        seen = [known[tuple(one.flatten().tolist())] for one in augmented]
        assert set(seen) == set(allowed)
        assert min(seen.count(number) for number in allowed) > 400 / len(allowed) / 2
    unchanged = random_dihedral(batch, flips=False, turns=False, generator=torch.Generator())
    assert torch.equal(unchanged, batch)


def test_half_precision_does_not_move_pixels() -> None:
    images = torch.randint(0, 256, (2, 1, 256, 256), dtype=torch.uint8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(resampled(images, torch.eye(3).repeat(2, 1, 1)), images)
