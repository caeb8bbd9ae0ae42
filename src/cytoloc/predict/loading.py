"""Models from where they lie: the one in the box, a bundle, a run, a folder of runs."""

from __future__ import annotations

from pathlib import Path

from cytoloc.errors import FormatError
from cytoloc.labels import LabelSet
from cytoloc.predict.bundle import box, in_box, read_bundle
from cytoloc.predict.model import Model
from cytoloc.predict.runs import learned_from, load_run
from cytoloc.runs import find_runs


def load(path: str | Path | None = None) -> Model:
    """Return a model: the one in the box, that of a bundle, of a run, or the mean of all runs in a folder.

    Args:
        path: A ``.cytoloc`` file, a run folder or a folder of runs of ``cytoloc train``; by default, or if it is
            ``"box"`` and there is nothing of that name, the model in the box.

    Raises:
        FormatError: If there is no bundle and no finished run, or the runs differ in what they see.
        LabelSetError: If the runs differ in the locations that they predict.
    """
    if path is None or in_box(path):
        return read_bundle(box())
    path = Path(path)
    if not path.is_dir():
        return read_bundle(path)
    folders = find_runs([path])
    runs = [load_run(folder) for folder in folders]
    recipes = [recipe for _, recipe, _ in runs]
    label_set: LabelSet = runs[0][2]["label_set"]
    for folder, (_, _, facts) in zip(folders[1:], runs[1:], strict=True):
        label_set.refuse_other(facts["label_set"], what=str(folder), than=str(folders[0]))
    if len({(recipe.image.field_px, recipe.image.channels, recipe.select.views) for recipe in recipes}) > 1:
        raise FormatError(
            f"The runs in {path} differ in image size, channels or views.",
            way_out="Predict with each and average the scores.",
        )
    return Model(
        [network for network, _, _ in runs],
        size=recipes[0].image.field_px,
        channels=recipes[0].image.channels,
        label_set=label_set,
        views=recipes[0].select.views,
        provenance={
            "runs": [{key: facts[key] for key in ("name", "recipe", "fold", "dataset")} for _, _, facts in runs]
        },
        trained_on=frozenset().union(*(learned_from(facts) for _, _, facts in runs)),
    )
