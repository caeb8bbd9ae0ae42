"""cytoloc: predict where in the cell a protein is, from fluorescence images.

The names below are the public ones. Each is imported when it is first used, so that ``import cytoloc`` is quick.

Examples:
    >>> import cytoloc as cl
    >>> len(cl.LabelSet.hpa28())
    28
"""

from __future__ import annotations

import gc
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import cytoloc.errors
    import cytoloc.torch  # noqa: F401  the public modules
    from cytoloc.adoption.adjusting import adjust as adjust
    from cytoloc.adoption.adopting import adopt as adopt
    from cytoloc.adoption.checking import check_adopted as check_adopted
    from cytoloc.adoption.graphs import OnnxFacts as OnnxFacts
    from cytoloc.adoption.graphs import adopt_onnx as adopt_onnx
    from cytoloc.adoption.listing import published_models as published_models
    from cytoloc.adoption.subcell import adopt_subcell as adopt_subcell
    from cytoloc.cells.aggregation import Aggregated as Aggregated
    from cytoloc.cells.aggregation import aggregate_cells as aggregate_cells
    from cytoloc.cells.aggregation import cell_anndata as cell_anndata
    from cytoloc.cells.competition import cell_average_precision as cell_average_precision
    from cytoloc.cells.competition import cell_mean_average_precision as cell_mean_average_precision
    from cytoloc.cells.competition import decode_mask as decode_mask
    from cytoloc.cells.competition import encode_mask as encode_mask
    from cytoloc.cells.competition import write_cell_submission as write_cell_submission
    from cytoloc.cells.crops import CropOptions as CropOptions
    from cytoloc.cells.hpa_segmentation import HpaSegmentation as HpaSegmentation
    from cytoloc.cells.methods import Classical as Classical
    from cytoloc.cells.methods import InstanSeg as InstanSeg
    from cytoloc.cells.methods import LabelFiles as LabelFiles
    from cytoloc.cells.outlines import outline_sheet as outline_sheet
    from cytoloc.cells.segmenting import segment_cells as segment_cells
    from cytoloc.cells.sources import labels_of as labels_of
    from cytoloc.channels import CHANNELS as CHANNELS
    from cytoloc.contents import describe as describe
    from cytoloc.curation.audit import audit_labels as audit_labels
    from cytoloc.curation.audit import write_corrections as write_corrections
    from cytoloc.curation.duplicates import find_duplicates as find_duplicates
    from cytoloc.curation.duplicates import write_duplicates as write_duplicates
    from cytoloc.curation.fold_quality import fold_quality as fold_quality
    from cytoloc.curation.folds import make_folds as make_folds
    from cytoloc.curation.folds_file import check_folds as check_folds
    from cytoloc.curation.folds_file import read_folds as read_folds
    from cytoloc.curation.folds_file import write_folds as write_folds
    from cytoloc.curation.leak import find_leak as find_leak
    from cytoloc.curation.leak import write_leak as write_leak
    from cytoloc.curation.target_fold import make_validation_fold as make_validation_fold
    from cytoloc.dataset.from_arrays import dataset_from_arrays as dataset_from_arrays
    from cytoloc.dataset.from_files import FolderOptions as FolderOptions
    from cytoloc.dataset.from_files import import_folder as import_folder
    from cytoloc.dataset.from_files import import_hpa as import_hpa
    from cytoloc.dataset.from_files import import_kaggle as import_kaggle
    from cytoloc.dataset.from_files import preview_folder as preview_folder
    from cytoloc.dataset.from_plates import PlateOptions as PlateOptions
    from cytoloc.dataset.from_plates import import_plate as import_plate
    from cytoloc.dataset.from_plates import preview_plate as preview_plate
    from cytoloc.dataset.importing import ImportOptions as ImportOptions
    from cytoloc.dataset.store import Dataset as Dataset
    from cytoloc.dataset.store import open_dataset as open_dataset
    from cytoloc.decide import Auto as Auto
    from cytoloc.decide import AveragePrecision as AveragePrecision
    from cytoloc.decide import Decision as Decision
    from cytoloc.decide import Evaluation as Evaluation
    from cytoloc.decide import Exact as Exact
    from cytoloc.decide import ExpectedF1 as ExpectedF1
    from cytoloc.decide import Fixed as Fixed
    from cytoloc.decide import GlobalGrid as GlobalGrid
    from cytoloc.decide import Grid as Grid
    from cytoloc.decide import Ratio as Ratio
    from cytoloc.decide import Rules as Rules
    from cytoloc.decide import Shrunk as Shrunk
    from cytoloc.decide import Smooth as Smooth
    from cytoloc.decide import Stack as Stack
    from cytoloc.decide import cross_fit as cross_fit
    from cytoloc.decide import ensemble as ensemble
    from cytoloc.decide import evaluate as evaluate
    from cytoloc.decide import find_label_errors as find_label_errors
    from cytoloc.decide import fit_and_cross_fit as fit_and_cross_fit
    from cytoloc.decide import fit_decision as fit_decision
    from cytoloc.decide import mean_average_precision as mean_average_precision
    from cytoloc.decide import read_decision as read_decision
    from cytoloc.decide import write_decision as write_decision
    from cytoloc.embed.attention import attention_maps as attention_maps
    from cytoloc.embed.attention import attention_weights as attention_weights
    from cytoloc.embed.embeddings import Embeddings as Embeddings
    from cytoloc.embed.embeddings import embed_sources as embed_sources
    from cytoloc.embed.embeddings import read_embeddings as read_embeddings
    from cytoloc.embed.embeddings import write_embeddings as write_embeddings
    from cytoloc.embed.map import map_positions as map_positions
    from cytoloc.embed.map import write_map as write_map
    from cytoloc.embed.neighbors import Neighbors as Neighbors
    from cytoloc.embed.neighbors import find_neighbors as find_neighbors
    from cytoloc.embed.voting import neighbor_votes as neighbor_votes
    from cytoloc.errors import CytolocError as CytolocError
    from cytoloc.explain.maps import ExplainOptions as ExplainOptions
    from cytoloc.explain.maps import Explanations as Explanations
    from cytoloc.explain.maps import explain_sources as explain_sources
    from cytoloc.export.exporting import export_model as export_model
    from cytoloc.hpa.fetching import FetchOptions as FetchOptions
    from cytoloc.hpa.fetching import fetch_hpa as fetch_hpa
    from cytoloc.hpa.fetching import plan_hpa as plan_hpa
    from cytoloc.label_conversion import conversion as conversion
    from cytoloc.label_conversion import convert_labels as convert_labels
    from cytoloc.label_conversion import convert_predictions as convert_predictions
    from cytoloc.labels.label_list import LabelList as LabelList
    from cytoloc.labels.label_list import read_label_list as read_label_list
    from cytoloc.labels.label_set import LabelSet as LabelSet
    from cytoloc.labels.label_set import Location as Location
    from cytoloc.predict.bundle import BundleOptions as BundleOptions
    from cytoloc.predict.bundle import write_bundle as write_bundle
    from cytoloc.predict.cluster import RayWorkers as RayWorkers
    from cytoloc.predict.loading import load as load
    from cytoloc.predict.model import Model as Model
    from cytoloc.predict.sources import open_sources as open_sources
    from cytoloc.predict.streaming import StreamOptions as StreamOptions
    from cytoloc.predict.streaming import StreamState as StreamState
    from cytoloc.predict.streaming import predict_parts as predict_parts
    from cytoloc.prediction_files import read_predictions as read_predictions
    from cytoloc.prediction_files import write_predictions as write_predictions
    from cytoloc.predictions import Predictions as Predictions
    from cytoloc.recipes.recipe import Recipe as Recipe
    from cytoloc.recipes.recipe import load_recipe as load_recipe
    from cytoloc.recipes.recipe import recipe_names as recipe_names
    from cytoloc.report.explanations import write_explanations as write_explanations
    from cytoloc.report.figures import SheetOptions as SheetOptions
    from cytoloc.report.figures import contact_sheet as contact_sheet
    from cytoloc.report.figures import duplicates_sheet as duplicates_sheet
    from cytoloc.report.figures import fold_sheet as fold_sheet
    from cytoloc.report.figures import score_plot as score_plot
    from cytoloc.report.figures import training_curve as training_curve
    from cytoloc.report.page import ReportOptions as ReportOptions
    from cytoloc.report.page import write_report as write_report
    from cytoloc.report.prediction_tables import prediction_table as prediction_table
    from cytoloc.report.prediction_tables import write_table as write_table
    from cytoloc.report.study import compare_runs as compare_runs
    from cytoloc.reproduce.kaggle2018 import plan_kaggle2018 as plan_kaggle2018
    from cytoloc.reproduce.kaggle2018 import reproduce_kaggle2018 as reproduce_kaggle2018
    from cytoloc.reproduce.options import ReproduceOptions as ReproduceOptions
    from cytoloc.serve.running import serve_model as serve_model
    from cytoloc.serve.settings import ServeSettings as ServeSettings
    from cytoloc.simulate.competition import simulate_competition as simulate_competition
    from cytoloc.simulate.files import simulate_hpa as simulate_hpa
    from cytoloc.simulate.files import simulate_kaggle as simulate_kaggle
    from cytoloc.simulate.plan import Design as Design
    from cytoloc.simulate.study import Flaws as Flaws
    from cytoloc.simulate.study import simulate_dataset as simulate_dataset
    from cytoloc.simulate.study import simulate_study as simulate_study
    from cytoloc.training.options import TrainOptions as TrainOptions
    from cytoloc.training.run import Run as Run
    from cytoloc.training.run import train as train
    from cytoloc.training.tuning import TuneOptions as TuneOptions
    from cytoloc.training.tuning import tune_recipe as tune_recipe

__version__ = "0.1.0"

_HOMES: Final = {
    "adoption.adjusting": ("adjust",),
    "adoption.adopting": ("adopt",),
    "adoption.checking": ("check_adopted",),
    "adoption.graphs": ("OnnxFacts", "adopt_onnx"),
    "adoption.listing": ("published_models",),
    "adoption.subcell": ("adopt_subcell",),
    "cells.aggregation": ("Aggregated", "aggregate_cells", "cell_anndata"),
    "cells.competition": (
        "cell_average_precision",
        "cell_mean_average_precision",
        "decode_mask",
        "encode_mask",
        "write_cell_submission",
    ),
    "cells.crops": ("CropOptions",),
    "cells.hpa_segmentation": ("HpaSegmentation",),
    "cells.methods": ("Classical", "InstanSeg", "LabelFiles"),
    "cells.outlines": ("outline_sheet",),
    "cells.segmenting": ("segment_cells",),
    "cells.sources": ("labels_of",),
    "channels": ("CHANNELS",),
    "curation.audit": ("audit_labels", "write_corrections"),
    "curation.duplicates": ("find_duplicates", "write_duplicates"),
    "curation.folds": ("make_folds",),
    "curation.folds_file": ("check_folds", "read_folds", "write_folds"),
    "curation.leak": ("find_leak", "write_leak"),
    "curation.target_fold": ("make_validation_fold",),
    "dataset.from_arrays": ("dataset_from_arrays",),
    "dataset.importing": ("ImportOptions",),
    "dataset.from_files": ("FolderOptions", "import_folder", "import_hpa", "import_kaggle", "preview_folder"),
    "dataset.from_plates": ("PlateOptions", "import_plate", "preview_plate"),
    "dataset.store": ("Dataset", "open_dataset"),
    "contents": ("describe",),
    "decide": (
        "Auto",
        "AveragePrecision",
        "Decision",
        "Evaluation",
        "Exact",
        "ExpectedF1",
        "Fixed",
        "GlobalGrid",
        "Grid",
        "Ratio",
        "Rules",
        "Shrunk",
        "Smooth",
        "Stack",
        "cross_fit",
        "ensemble",
        "evaluate",
        "find_label_errors",
        "fit_and_cross_fit",
        "fit_decision",
        "mean_average_precision",
        "read_decision",
        "write_decision",
    ),
    "hpa.fetching": ("FetchOptions", "fetch_hpa", "plan_hpa"),
    "training.tuning": ("TuneOptions", "tune_recipe"),
    "training.options": ("TrainOptions",),
    "training.run": ("Run", "train"),
    "embed.attention": ("attention_maps", "attention_weights"),
    "embed.embeddings": ("Embeddings", "embed_sources", "read_embeddings", "write_embeddings"),
    "embed.map": ("map_positions", "write_map"),
    "embed.neighbors": ("Neighbors", "find_neighbors"),
    "embed.voting": ("neighbor_votes",),
    "errors": ("CytolocError",),
    "explain.maps": ("ExplainOptions", "Explanations", "explain_sources"),
    "export.exporting": ("export_model",),
    "label_conversion": ("conversion", "convert_labels", "convert_predictions"),
    "labels.label_list": ("LabelList", "read_label_list"),
    "labels.label_set": ("LabelSet", "Location"),
    "predict.bundle": ("BundleOptions", "write_bundle"),
    "predict.cluster": ("RayWorkers",),
    "predict.loading": ("load",),
    "predict.model": ("Model",),
    "predict.sources": ("open_sources",),
    "predict.streaming": ("StreamOptions", "StreamState", "predict_parts"),
    "prediction_files": ("read_predictions", "write_predictions"),
    "report.prediction_tables": ("prediction_table", "write_table"),
    "predictions": ("Predictions",),
    "recipes.recipe": ("Recipe", "load_recipe", "recipe_names"),
    "report.page": ("ReportOptions", "write_report"),
    "report.explanations": ("write_explanations",),
    "report.figures": (
        "SheetOptions",
        "contact_sheet",
        "duplicates_sheet",
        "fold_sheet",
        "score_plot",
        "training_curve",
    ),
    "curation.fold_quality": ("fold_quality",),
    "report.study": ("compare_runs",),
    "reproduce.kaggle2018": ("plan_kaggle2018", "reproduce_kaggle2018"),
    "reproduce.options": ("ReproduceOptions",),
    "serve.running": ("serve_model",),
    "serve.settings": ("ServeSettings",),
    "simulate.competition": ("simulate_competition",),
    "simulate.files": ("simulate_hpa", "simulate_kaggle"),
    "simulate.plan": ("Design",),
    "simulate.study": ("Flaws", "simulate_dataset", "simulate_study"),
}
"""The public names of each module."""

_MODULES: Final = ("errors", "torch")
"""The modules that are public as a whole."""

_HOME_OF: Final = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF), *_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES and name not in _HOME_OF:
        raise AttributeError(f"module 'cytoloc' has no attribute {name!r}")
    # Importing PyTorch creates many objects that stay. The garbage collector would look at them again and again, which
    # takes a quarter of the time.
    was_on = gc.isenabled()
    gc.disable()
    try:
        module = import_module(f"cytoloc.{name if name in _MODULES else _HOME_OF[name]}")
    finally:
        if was_on:
            gc.enable()
    return module if name in _MODULES else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
