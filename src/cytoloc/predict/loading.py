"""Models from where they lie: the built-in one, a bundle, a run, a folder of runs."""

from __future__ import annotations

from pathlib import Path

from cytoloc.predict.bundle import builtin_bundle, is_builtin, read_bundle
from cytoloc.predict.model import Model
from cytoloc.predict.runs import learned_from, load_run, refuse_different_runs
from cytoloc.runs import find_runs


def load(path: str | Path | None = None) -> Model:
    """Return a model: the built-in one, that of a bundle, of a run, or the mean of all runs in a folder.

    Args:
        path: A ``.cytoloc`` file, a run folder or a folder of runs of ``cytoloc train``; by default, or if it is
            ``"builtin"`` and there is nothing of that name, the built-in model.

    Raises:
        FormatError: If there is no bundle and no finished run.
        SettingsError: If the runs differ in image size, channels or views.
        LabelSetError: If the runs differ in the locations that they predict.
    """
    if path is None or is_builtin(path):
        return read_bundle(builtin_bundle())
    path = Path(path)
    if not path.is_dir():
        return read_bundle(path)
    folders = find_runs([path])
    runs = [load_run(folder) for folder in folders]
    recipes = [recipe for _, recipe, _ in runs]
    label_set = refuse_different_runs(folders, runs)
    return Model(
        [network for network, _, _ in runs],
        size=recipes[0].image.field_px,
        channels=recipes[0].image.channels,
        label_set=label_set,
        tta=recipes[0].select.tta,
        provenance={
            "runs": [{key: facts[key] for key in ("name", "recipe", "fold", "dataset")} for _, _, facts in runs]
        },
        trained_on=frozenset().union(*(learned_from(facts) for _, _, facts in runs)),
    )
