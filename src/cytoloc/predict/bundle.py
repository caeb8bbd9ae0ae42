"""Bundles: everything that prediction needs, in one checksummed file ``NAME.cytoloc``.

A bundle is a zip archive. ``bundle.json`` lists the networks, and the size and SHA-256 of every part. The other parts
are the weights of each network as safetensors, the recipe of each network, the ids of the training fields, the model
card and, optionally, the decision.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from lzma import LZMAError
from pathlib import Path
from typing import Any, Final, NamedTuple

import safetensors.torch
import torch
from pydantic import ValidationError

from cytoloc.choices import BUILTINS, check_type, is_builtin, near
from cytoloc.dataset.store import Dataset, open_dataset
from cytoloc.decide.decision import Decision, read_decision, write_decision
from cytoloc.errors import CytolocError, FormatError, SettingsError
from cytoloc.files import check_outputs, existing, new_file, parse_json, refuse_given_twice, sha256_of
from cytoloc.labels.label_set import LabelSet
from cytoloc.labels.lists import read_csv, require_columns
from cytoloc.models.graphs import GraphOutput, graph_network
from cytoloc.models.network import Network, build_network
from cytoloc.models.subcell import BACKBONE as SUBCELL
from cytoloc.models.subcell import network_of_state
from cytoloc.predict.bundle_header import (
    BUNDLE_FORMAT,
    CARD,
    DECISION,
    HEADER,
    INPUTS,
    INT8,
    INT8_REPORT,
    TRAINED_ON,
    WEIGHTS,
    Header,
    Member,
    Part,
)
from cytoloc.predict.engines.comparison import quantize_model
from cytoloc.predict.engines.int8 import Int8Graph
from cytoloc.predict.inputs.reference import LEAST_FIELDS, InputReference
from cytoloc.predict.model import Model
from cytoloc.predict.model_info import CellImages, ModelInfo
from cytoloc.predict.references import reference_of
from cytoloc.predict.runs import LoadedRun, learned_from, load_runs, model_info
from cytoloc.recipes.recipe import to_toml
from cytoloc.runs import PREDICTIONS, find_runs

SUFFIX: Final = ".cytoloc"

_MOST_HEADER_BYTES: Final = 10_000_000

_EARLIEST: Final = (1980, 1, 1, 0, 0, 0)
"""The time stamp of all parts, so that equal parts give equal files."""


class OpenBundle(NamedTuple):
    """A bundle whose parts have been verified.

    Attributes:
        path: The file.
        header: The content of ``bundle.json``.
        parts: The content of each other file in the archive.
    """

    path: Path
    header: Header
    parts: dict[str, bytes]

    @property
    def card(self) -> str:
        """The model card in Markdown, starting with the caution."""
        text = self.parts[CARD].decode("utf-8", errors="replace")
        card = "".join(each for each in text if each.isprintable() or each in "\n\t")
        caution = self.header.caution
        return f"**{caution}**\n\n{card}" if caution and caution not in card else card

    @property
    def trained_on(self) -> frozenset[str]:
        """Ids of the fields that the networks were trained on."""
        return frozenset(self.parts[TRAINED_ON].decode("utf-8").splitlines())

    @property
    def label_set(self) -> LabelSet:
        """The locations that the networks predict."""
        return LabelSet.from_json(self.header.label_set)

    def network(self, number: int) -> Network:
        """Return the network of a member, given its position.

        Raises:
            FormatError: If this release cannot build the network.
        """
        with self._readable():
            state = safetensors.torch.load(self.parts[f"members/{number}/{WEIGHTS}"])
            graph = self.header.members[number].graph
            if graph is not None:
                output = GraphOutput(graph.output, graph.is_probability)
                return graph_network(state["backbone.graph"], output, channels=len(self.header.channels))
            if self.header.members[number].backbone == SUBCELL:
                return network_of_state(state)
            network = build_network(self.header.spec(number))
            network.load_state_dict(state)
            return network

    def decision(self) -> Decision | None:
        """Return the decision; None if there is none.

        Raises:
            FormatError: If this release cannot read the decision.
        """
        if DECISION not in self.parts:
            return None
        with self._readable(), tempfile.TemporaryDirectory() as place:
            path = Path(place) / DECISION
            path.write_bytes(self.parts[DECISION])
            return read_decision(path)

    def inputs(self) -> InputReference | None:
        """Return what the model knows of its training images; None if the bundle does not state it.

        Raises:
            FormatError: If this release cannot read it.
        """
        if INPUTS not in self.parts:
            return None
        with self._readable():
            return InputReference.from_bytes(self.parts[INPUTS])

    def int8(self) -> tuple[Int8Graph, ...]:
        """Return the int8 network of each member; none if the bundle has none."""
        if INT8_REPORT not in self.parts:
            return ()
        members = range(len(self.header.members))
        return tuple(Int8Graph(*(self.parts[f"members/{i}/{name}"] for name in INT8)) for i in members)

    def int8_report(self) -> dict[str, Any] | None:
        """Return how far the int8 networks agree with the others; None if the bundle has none.

        Raises:
            FormatError: If this release cannot read it.
        """
        if INT8_REPORT not in self.parts:
            return None
        with self._readable():
            report: dict[str, Any] = json.loads(self.parts[INT8_REPORT])
            return report

    def member_of(self, fold: int) -> int:
        """Return the position of the member whose validation fold is ``fold``; of the first member if there is none."""
        folds = [member.fold for member in self.header.members]
        return folds.index(fold) if fold in folds else 0

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Turn errors from intact parts into an error that another release wrote the bundle."""
        try:
            yield
        except (
            CytolocError,
            KeyError,
            TypeError,
            ValueError,
            RuntimeError,
            UnicodeDecodeError,
            safetensors.SafetensorError,
        ) as error:
            raise FormatError(
                f"{self.path} cannot be used by this release: {error!r}.",
                hint="Use the release that wrote it, or bundle the runs again.",
            ) from error


def builtin_bundle(name: str = "builtin") -> Path:
    """Return the path of a built-in model."""
    return Path(str(files("cytoloc") / "predict" / f"{name}{SUFFIX}"))


def bundle_path(path: str | Path) -> Path:
    """Return the file that a path means: the bundle of a built-in model, if it is a name of one, else the path.

    Raises:
        FormatError: If the path does not exist, and resembles the name of a built-in model.
    """
    if is_builtin(path):
        return builtin_bundle(str(path))
    place = Path(path)
    if str(path).startswith("builtin") and not place.suffix and not place.exists():
        raise FormatError(f"There is no model {path}.", hint=near(str(path), BUILTINS))
    return place


@dataclass(frozen=True, kw_only=True)
class BundleOptions:
    """What a bundle has besides networks and a decision.

    Attributes:
        card: The model card in Markdown, which describes the model and its metrics. Default: a list of the runs.
        half: Whether to store weights with 16 bits instead of 32.
        caution: A caution that is shown with every prediction.
        inputs: Datasets of good images. The model marks images that are unlike them. Default: the dataset that the
            runs were trained on, if it is still there and has at least 50 fields.
        knowledge: What is known of the predictions of a location, by its key, such as ``"transfers"`` or
            ``"unknown"``. It is shown in every table of predictions.
        int8: A dataset of fields like those that will be predicted. The bundle then has each network with 8-bit
            integers too, which ``load(…, precision="int8")`` uses. Up to 300 fields calibrate the networks; up to 1,000
            other fields compare them with float32. Default: none.

    Raises:
        SettingsError: If the caution has unprintable characters.
    """

    card: str | None = None
    half: bool = False
    caution: str = ""
    inputs: Sequence[str | Path | Dataset] | None = None
    knowledge: Mapping[str, str] = field(default_factory=dict)
    int8: str | Path | Dataset | None = None

    def __post_init__(self) -> None:
        check_type(self.card, (str, type(None)), argument="card")
        check_type(self.half, bool, argument="half")
        check_type(self.caution, str, argument="caution")
        if not self.caution.isprintable():
            raise SettingsError("The caution contains unprintable characters.", hint="Write the caution on one line.")


def write_bundle(
    runs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    decision: str | Path | Decision | None = None,
    options: BundleOptions = BundleOptions(),
) -> Path:
    """Write finished runs to one bundle. The probabilities of several runs are averaged in prediction.

    Args:
        runs: Runs, or folders of runs.
        out: The new file, which must end in ``.cytoloc``.
        decision: A decision, or its file. It must be fitted to the averaged out-of-fold predictions of these runs.
        options: The card, and what else the bundle has.

    Returns:
        The path of the new file.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        OutputExistsError: If ``out`` exists.
        FormatError: If a run is not finished or is damaged.
        SettingsError: If the name does not end in ``.cytoloc``, the runs differ in image size, channels or test-time
            augmentation, a run is given twice, the decision was fitted to other predictions, or weights are too large
            for 16 bits.
        LabelSetError: If the runs or the decision have different label sets.
        ChannelError: If a dataset in ``options.inputs`` or ``options.int8`` lacks a channel.
        ExportError: If the int8 networks change whether a location is predicted for more than 2 % of the pairs of field
            and location, or lose more than 0.005 macro F1.
        MissingExtraError: If ``options.int8`` is given, and the extra ``engines`` is not installed.
    """
    check_type(runs, (str, Path, list, tuple), argument="runs")
    check_type(out, (str, Path), argument="out")
    check_type(options, BundleOptions, argument="options")
    out = Path(out)
    check_bundle_path(out)
    folders = find_runs([Path(each) for each in ([runs] if isinstance(runs, str | Path) else runs)])
    refuse_given_twice(each.resolve() for each in folders)
    loaded = load_runs(folders)
    info = model_info(loaded, provenance={})
    parts: dict[str, bytes] = {}
    fitted = None
    if decision is not None:
        fitted, parts[DECISION] = _fitted_decision(decision, folders, info.label_set)
    parts[CARD] = (_plain_card(out.stem, loaded, fitted) if options.card is None else options.card).encode("utf-8")
    for number, run in enumerate(loaded):
        state = {key: value.contiguous() for key, value in run.network.state_dict().items()}
        if options.half:
            for key, value in state.items():
                # Statistics of images and features keep 32 bits.
                exact = key.endswith(("running_mean", "running_var")) or key.startswith("normalize.")
                if not value.is_floating_point() or exact:
                    continue
                state[key] = value.half()
                if not torch.isfinite(state[key]).all():
                    raise SettingsError(
                        f"The weight {key} of {run.folder.name} is too large for 16 bits.",
                        hint="Keep 32 bits (half=False).",
                    )
        parts[f"members/{number}/{WEIGHTS}"] = safetensors.torch.save(state)
        parts[f"members/{number}/recipe.toml"] = to_toml(run.recipe).encode("utf-8")
    if options.int8 is not None:
        model = Model([run.network for run in loaded], info, decision=fitted, device="cpu", unusual="decide")
        graphs, compared = quantize_model(model, options.int8)
        parts[INT8_REPORT] = compared.to_bytes()
        for number, graph in enumerate(graphs):
            parts |= {f"members/{number}/{name}": part for name, part in zip(INT8, graph, strict=True)}
    known = _input_reference(loaded, info, options.inputs)
    if known is not None:
        parts[INPUTS] = known.to_bytes()
    parts[TRAINED_ON] = "".join(f"{name}\n" for name in sorted(info.trained_on)).encode("utf-8")
    header = Header(
        **BUNDLE_FORMAT.header,
        members=[Member.of(run) for run in loaded],
        field_px=info.size,
        tta=loaded[0].recipe.select.tta,
        caution=options.caution,
        resample=info.resample,
        channels=list(info.channels),
        label_set=info.label_set.to_json(),
        knowledge={info.label_set[info.label_set.index(name)].key: text for name, text in options.knowledge.items()},
        parts={name: Part.of(content) for name, content in parts.items()},
        trained_on_datasets=list(info.trained_on_datasets),
    )
    write_archive(out, header, parts)
    return out


def check_bundle_path(out: Path) -> None:
    """Raise unless a new bundle can be written to a path.

    Args:
        out: The path.

    Raises:
        SettingsError: If the name does not end in ``.cytoloc``.
        OutputExistsError: If the file exists.
    """
    if out.suffix != SUFFIX:
        raise SettingsError(
            f"{out} is not a valid name for a bundle, which must end in {SUFFIX}.",
            hint=f"Choose {out.stem}{SUFFIX}.",
        )
    check_outputs(out)


def write_archive(out: Path, header: Header, parts: Mapping[str, bytes]) -> None:
    """Write a header and the parts that it lists to a new bundle."""
    everything = {HEADER: json.dumps(header.model_dump(mode="json"), indent=1).encode("utf-8"), **parts}
    with new_file(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content in everything.items():
            # Compression takes seconds and saves less than a tenth of weights.
            how = zipfile.ZIP_STORED if name.endswith(WEIGHTS) else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(name, _EARLIEST), content, compress_type=how)


def read_knowledge(path: Path) -> dict[str, str]:
    """Read what is known of the predictions of each location.

    Args:
        path: A CSV file with the columns ``location`` and ``knowledge``.

    Returns:
        The texts by key or name of the location.

    Raises:
        TableError: If the file cannot be read, or lacks a column.
    """
    table = read_csv(path)
    require_columns(table, ["location", "knowledge"], path)
    return dict(table.select("location", "knowledge").iter_rows())


def _input_reference(
    runs: Sequence[LoadedRun], info: ModelInfo, inputs: Sequence[str | Path | Dataset] | None
) -> InputReference | None:
    """Return what a model knows of the images of some datasets; of the training dataset if none are given."""
    if inputs is None:
        try:
            trained_on = open_dataset(runs[0].header["dataset"]["path"])
        except CytolocError:
            return None  # a dataset that was moved is no reason not to write a bundle
        same = trained_on.fingerprint == runs[0].header["dataset"]["fingerprint"]
        datasets = [trained_on] if same and len(trained_on) >= LEAST_FIELDS else []
    else:
        datasets = [each if isinstance(each, Dataset) else open_dataset(each) for each in inputs]
        for each in datasets:
            if len(each) < LEAST_FIELDS:
                raise SettingsError(
                    f"{each.path} has {len(each)} fields, but `inputs` needs {LEAST_FIELDS}.",
                    hint="Give a dataset with more fields.",
                )
    return reference_of(Model([run.network for run in runs], info), datasets) if datasets else None


def read_bundle(path: Path) -> tuple[ModelInfo, list[Network], Decision | None]:
    """Read the model in a bundle.

    Args:
        path: The file.

    Returns:
        The properties of the model, its networks, and its decision.

    Raises:
        FormatError: If the file is not a bundle of this version, or a part differs from its checksum.
    """
    bundle = open_bundle(path)
    header, decision = bundle.header, bundle.decision()
    fitted = {"calibrated_by": header.parts[DECISION].sha256} if decision and decision.method.fits_probabilities else {}
    made: dict[str, Any] = {
        "runs": [member.model_dump(include={"name", "recipe", "fold", "dataset"}) for member in header.members]
    }
    if header.origin is not None:
        made = {"adopted": header.origin.model_dump(exclude={"file", "is_published"})}
    info = ModelInfo(
        size=header.field_px,
        channels=tuple(header.channels),
        label_set=bundle.label_set,
        tta=header.tta,
        provenance={"bundle": path.name, **made, **fitted},
        trained_on=bundle.trained_on,
        trained_on_datasets=tuple(header.trained_on_datasets),
        caution=header.caution,
        card=bundle.card,
        resample=header.resample,
        knowledge=header.knowledge,
        inputs=bundle.inputs(),
        int8=bundle.int8(),
        cells=None if header.cells is None else CellImages(**header.cells.model_dump()),
    )
    return info, [bundle.network(number) for number in range(len(header.members))], decision


def open_bundle(path: Path) -> OpenBundle:
    """Open a bundle, and verify that its parts are complete and unchanged.

    Args:
        path: The file.

    Returns:
        The bundle.

    Raises:
        FormatError: If the file is not a bundle of this version, or a part differs from its checksum.
    """
    existing(path, error=FormatError, what="bundle file")
    again = "Copy the bundle again from its source."
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
            if sizes.get(HEADER, _MOST_HEADER_BYTES + 1) > _MOST_HEADER_BYTES:
                raise FormatError(
                    f"{path} is not a bundle, because it has no {HEADER}.", hint="Give a file of `cytoloc bundle`."
                )
            stated = parse_json(archive.read(HEADER), BUNDLE_FORMAT, where=path)
            try:
                header = Header.model_validate(stated)
            except (ValidationError, CytolocError) as error:
                raise FormatError(f"{path} is damaged: the content of {HEADER} is invalid.", hint=again) from error
            listed = {name: part.size_bytes for name, part in header.parts.items()}
            strange = set(sizes.items()) ^ {*listed.items(), (HEADER, sizes[HEADER])}
            if strange or len(archive.infolist()) != len(sizes):
                what = min((name for name, _ in strange), default="a part that occurs twice")
                raise FormatError(f"{path} is damaged: {what} is not as it was written.", hint=again)
            parts = {name: archive.read(name) for name in header.parts}
    except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, zlib.error, LZMAError) as error:
        raise FormatError(
            f"{path} cannot be read as a bundle: {error!r}.", hint=f"Give a {SUFFIX} file of `cytoloc bundle`."
        ) from error
    for name, content in parts.items():
        if Part.of(content) != header.parts[name]:
            raise FormatError(f"{path} is damaged: {name} is not as it was written.", hint=again)
    return OpenBundle(path, header, parts)


def _fitted_decision(given: str | Path | Decision, runs: Sequence[Path], label_set: LabelSet) -> tuple[Decision, bytes]:
    """Return a decision and its file; raise if it was fitted to other predictions than the mean of these runs."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / DECISION if isinstance(given, Decision) else Path(given)
        if isinstance(given, Decision):
            write_decision(given, path)
        decision, content = read_decision(path), path.read_bytes()
    where = "the decision" if isinstance(given, Decision) else str(given)
    label_set.refuse_other(decision.label_set, what=where, than=str(runs[0]))
    if len(decision.members) != 1:
        raise SettingsError(
            f"{where} combines the members {', '.join(decision.members)}, but a bundle averages its runs.",
            hint="Fit the decision without --members and --neighbors: `cytoloc decide fit RUNS --labels … --out"
            " decision.json`. Or apply it with `cytoloc decide apply`.",
        )
    fitted_on = {each["sha256"] for each in decision.fitted_on.get("predictions", []) if "sha256" in each}
    if fitted_on and fitted_on != {sha256_of(run / PREDICTIONS) for run in runs}:
        raise SettingsError(
            f"{where} was fitted to other predictions than the out-of-fold predictions of these runs.",
            hint="Fit a decision to these runs: `cytoloc decide fit RUNS --labels … --out decision.json`.",
        )
    return decision, content


def _plain_card(name: str, runs: Sequence[LoadedRun], decision: Decision | None) -> str:
    """Return a model card that lists the runs and the decision."""
    lines = [f"# {name}", "", "| network | recipe | trained on | held out |", "|---|---|---|---|"]
    for run in runs:
        known, held_out = len(learned_from(run.header)), len(run.header["held_out"])
        earlier = f", some through {run.header['started_from']['name']}" if "started_from" in run.header else ""
        source = Path(run.header["dataset"]["path"]).name
        lines.append(f"| {run.folder.name} | {run.recipe.name} | {known} fields of {source}{earlier} | {held_out} |")
    if decision:
        unseen, fields = (decision.fitted_on.get(key) for key in ("macro_f1_cross_fitted", "fields"))
        measured = "" if unseen is None else f"; cross-fitted macro F1 {unseen:.3f}"
        lines += ["", f"Decision: method {decision.method.name}, fitted to {fields or 'unknown'} fields{measured}."]
    return "\n".join(lines) + "\n"
