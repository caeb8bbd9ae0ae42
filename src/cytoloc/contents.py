"""Descriptions of the files and folders that cytoloc writes, as JSON values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from cytoloc.choices import is_builtin
from cytoloc.dataset.store import Dataset, open_dataset
from cytoloc.errors import ArgumentTypeError, FormatError
from cytoloc.labels.lists import label_column, read_csv
from cytoloc.prediction_files import read_predictions
from cytoloc.predictions import Predictions
from cytoloc.runs import HEADER, find_runs, is_finished, is_run, read_header


def describe(path: str | Path | Dataset | Predictions) -> dict[str, Any]:
    """Describe a file or folder as JSON values.

    Args:
        path: A dataset (also a URL), a run or a folder of runs, a bundle or ``"builtin"``, predictions, a decision, a
            recipe, folds, pairs of duplicates, or a label list.

    Returns:
        A mapping with the key ``kind``, such as ``"dataset"``, and keys that depend on the kind.

    Raises:
        ArgumentTypeError: If ``path`` has another type.
        FormatError: If the path does not exist, or is none of these.
        TableError: If a CSV file is none of these.

    Examples:
        >>> describe("builtin")["label_set"]["name"]
        'hpa28'
    """
    if isinstance(path, Dataset):
        return {"kind": "dataset", **_of_dataset(path)}
    if isinstance(path, Predictions):
        return {"kind": "predictions", **_of_predictions(path)}
    if not isinstance(path, str | Path):
        raise ArgumentTypeError(
            f"`path` must be a string, a Path, a dataset or predictions, not {type(path).__name__}."
        )
    place = Path(path)
    if "://" in str(path) or (place / "dataset.json").exists():
        return {"kind": "dataset", **_of_dataset(open_dataset(path))}
    if place.is_dir() and not is_run(place) and not any(place.glob("[!.]*/run.json")):
        # The error states what is missing, or that an import was interrupted.
        return {"kind": "dataset", **_of_dataset(open_dataset(path))}
    if place.is_dir():
        runs: list[dict[str, Any]] = []
        for run in find_runs([place]):
            run_header = read_header(run)
            facts: dict[str, Any] = {
                "name": run.name,
                "finished": is_finished(run),
                **{key: run_header[key] for key in ("fold", "dataset", "environment") if key in run_header},
                "label_set": run_header["label_set"].name,
                "fields_held_out": len(run_header["held_out"]),
                "fields_trained_on": len(run_header["trained_on"]),
            }
            runs.append(facts)
        return {"kind": "run", **runs[0]} if is_run(place) else {"kind": "runs", "path": str(place), "runs": runs}
    if place.suffix == ".cytoloc" or is_builtin(path):
        from cytoloc.predict.bundle import bundle_path, open_bundle

        bundle = open_bundle(bundle_path(path))
        fitted = bundle.decision()
        # The fields of a network that others trained are not listed.
        is_known = bundle.header.origin is None and not bundle.header.trained_on_datasets
        return {
            "kind": "bundle",
            "path": str(path),
            **bundle.header.model_dump(mode="json", exclude={"format", "version", "parts"}),
            "decision": None if fitted is None else fitted.method.name,
            "fields_trained_on": len(bundle.trained_on) if is_known else None,
            "card": bundle.card,
            "int8": bundle.int8_report(),
        }
    if not place.exists():
        raise FormatError(f"{path} does not exist.", hint="Check the path.")
    if place.suffix == ".parquet":
        return {"kind": "predictions", **_of_predictions(read_predictions(place))}
    if place.name == HEADER:
        return describe(place.parent)
    if place.suffix == ".json":
        from cytoloc.decide.decision import read_decision

        decision = read_decision(place)
        return {
            "kind": "decision",
            "method": decision.method.name,
            "members": list(decision.members),
            "label_set": decision.label_set.to_json(),
            "thresholds": decision.thresholds.tolist(),
            "fitted_on": decision.fitted_on,
        }
    if place.suffix == ".toml":
        from cytoloc.recipes.recipe import load_recipe

        return {"kind": "recipe", **load_recipe(str(place)).model_dump(mode="json")}
    if place.name.lower().endswith((".csv", ".csv.gz", ".txt")):
        return _of_table(place)
    raise FormatError(
        f"{path} is not a kind of file that cytoloc can describe.", hint="Give a file of cytoloc, or a CSV file."
    )


def _of_dataset(dataset: Dataset) -> dict[str, Any]:
    wells = dataset.fields.select("plate", "well").drop_nulls().unique().height
    edges = ["original_px", "original_width_px"]
    sizes = dataset.fields.group_by(edges).len().sort(edges)
    flags = (
        dataset.fields["flags"].explode().drop_nulls().value_counts().sort(["count", "flags"], descending=[True, False])
    )
    megabytes = None
    if not isinstance(dataset.path, str):
        megabytes = sum(file.stat().st_size for file in dataset.folder.rglob("*") if file.is_file()) / 1e6
    return {
        "path": str(dataset.path),
        "fields": len(dataset),
        **({"cells_of_fields": dataset.fields["field"].n_unique()} if dataset.of_cells else {}),
        "size": dataset.size,
        "labeled": int(dataset.labeled.sum()),
        "megabytes": megabytes,
        "channels": list(dataset.channels),
        "label_set": dataset.label_set.to_json(),
        "imports": dataset.header["imports"],
        "segments": len(dataset.manifest.segments),
        "quarantined": len(dataset.quarantine),
        "sources": dataset.fields["source"].unique().sort().to_list(),
        "original_px": {
            f"{height}" if width in (height, None) else f"{width} x {height}": count
            for height, width, count in sizes.iter_rows()
        },
        "flags": {what: int(n) for what, n in flags.iter_rows()},
        "wells": wells,
        "wells_without_plate": dataset.fields.filter(pl.col("plate").is_null())["well"].drop_nulls().n_unique(),
        "antibodies": dataset.fields.select(pl.col("antibody").drop_nulls().n_unique()).item(),
        "fingerprint": dataset.fingerprint,
        "locations": [
            {"key": location.key, "name": location.name, "fields": int(count)}
            for location, count in zip(dataset.label_set, dataset.truth.sum(axis=0), strict=True)
            if count
        ],
    }


def _of_predictions(predictions: Predictions) -> dict[str, Any]:
    return {
        "fields": len(predictions),
        "label_set": predictions.label_set.to_json(),
        "decided": predictions.decided is not None,
        "rejected": dict(predictions.rejected),
        "provenance": predictions.provenance,
    }


def _of_table(path: Path) -> dict[str, Any]:
    """Describe a CSV file, recognized by its columns."""
    table = read_csv(path)
    columns = {name.lower() for name in table.columns}
    if "fold" in columns:
        from cytoloc.curation.folds_file import read_folds

        folds = read_folds(path, grouped="group" in columns)
        sizes = folds["fold"].drop_nulls().value_counts().sort("fold")
        return {
            "kind": "folds",
            "path": str(path),
            "folds": len(sizes),
            "fields": {str(fold): count for fold, count in sizes.iter_rows()},
            "left_out": folds["fold"].null_count(),
            "groups": folds["group"].n_unique(),
        }
    column = "Predicted" if "Predicted" in table.columns else label_column(table)
    if column is not None and "id" in columns:
        # A label list does not state its label set, so labels are counted as written.
        words = table[column].fill_null("").str.replace_all(r"[;|,]", " ").str.split(" ").explode()
        counts = words.filter(words != "").value_counts(sort=True, name="fields")
        return {
            "kind": "locations" if column == "Predicted" else "labels",
            "path": str(path),
            "fields": table.height,
            "labels": dict(counts.iter_rows()),
        }
    if "id" in columns and len(columns) > 2:
        return {"kind": "predictions", **_of_predictions(read_predictions(path))}
    from cytoloc.curation.pairs import read_matches

    pairs = read_matches(path)
    verdicts = {each: sum(pair.verdict == each for pair in pairs) for each in ("copy", "doubtful", "different")}
    verdicts["unknown"] = len(pairs) - sum(verdicts.values())
    return {"kind": "pairs", "path": str(path), "pairs": len(pairs), "verdicts": verdicts}
