"""Adopting a published ONNX graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from cytoloc.adoption.adopting import Adopted, read_published, write_adopted
from cytoloc.channels import check_channels
from cytoloc.choices import check_type
from cytoloc.errors import MissingExtraError, SettingsError, WeightsError, first_line, installing
from cytoloc.files import existing
from cytoloc.labels.label_set import LabelSet, find_label_set
from cytoloc.models.graphs import GraphOutput, graph_network, open_session
from cytoloc.predict.bundle import check_bundle_path
from cytoloc.predict.bundle_header import Graph, Member, Origin

NOT_STATED: Final = "not stated"

_SAME_VALUES: Final = {"Identity", "Reshape", "Squeeze", "Flatten", "Cast"}
"""Operations that do not change values."""


@dataclass(frozen=True, kw_only=True)
class OnnxFacts:
    """What is known of a classifier that others published as ONNX.

    Attributes:
        license: The license of the file, for the card.
        source: The address of the file, for the card.
        trained_on: Public datasets that the network was trained on as a whole. Predictions of fields that may be in
            them warn. Default: not known.
        caution: A caution that is shown with every prediction, such as what the images must show.
        sha256: The expected SHA-256 of the file.

    Raises:
        ArgumentTypeError: If a value has the wrong type.
        SettingsError: If the caution has unprintable characters.
    """

    license: str = NOT_STATED
    source: str = NOT_STATED
    trained_on: Sequence[str] = ()
    caution: str = ""
    sha256: str | None = None

    def __post_init__(self) -> None:
        for name in ("license", "source", "caution"):
            check_type(getattr(self, name), str, argument=name)
        check_type(self.trained_on, (list, tuple), argument="trained_on")
        check_type(self.sha256, (str, type(None)), argument="sha256")
        if not self.caution.isprintable():
            raise SettingsError("The caution contains unprintable characters.", hint="Write the caution on one line.")


def adopt_onnx(
    file: str | Path,
    out: str | Path,
    *,
    label_set: str | LabelSet,
    size: int,
    channels: Sequence[str],
    facts: OnnxFacts = OnnxFacts(),
) -> Path:
    """Write a classifier that others published as ONNX to a bundle. ONNX Runtime computes it.

    The graph takes pixels divided by 255, and has one value for each location. Whether the values are logits or
    probabilities is found from the last node of the graph.

    Args:
        file: The ONNX file.
        out: The new file, which must end in ``.cytoloc``.
        label_set: The locations of the graph in its order: a label set, or its name or file.
        size: Edge length of the images that the graph takes, in pixels.
        channels: The names of the channels in the order of the graph.
        facts: What is known of the file.

    Returns:
        The path of the new file.

    Raises:
        ArgumentTypeError: If an argument has the wrong type.
        SettingsError: If ``out`` does not end in ``.cytoloc``, or ``size`` is not positive.
        OutputExistsError: If ``out`` exists.
        ChannelError: If the channels are invalid.
        LabelSetError: If the label set is unknown.
        MissingExtraError: If the libraries onnx and onnxruntime are not installed.
        WeightsError: If the file does not exist, is damaged, has another checksum, or has a graph of another kind.

    Examples:
        >>> adopt_onnx(  # doctest: +SKIP
        ...     "bestfitting-inceptionv3-single-cell.onnx",
        ...     "inceptionv3.cytoloc",
        ...     label_set="hpa19",
        ...     size=128,
        ...     channels=["microtubules", "protein", "nucleus", "er"],
        ...     facts=OnnxFacts(license="MIT"),
        ... )
    """
    for name, value, kinds in (
        ("file", file, (str, Path)),
        ("out", out, (str, Path)),
        ("label_set", label_set, (str, LabelSet)),
        ("size", size, int),
        ("channels", channels, (list, tuple)),
        ("facts", facts, OnnxFacts),
    ):
        check_type(value, kinds, argument=name)
    file, out, planes = Path(file), Path(out), check_channels(channels)
    check_bundle_path(out)
    if size < 1:
        raise SettingsError(f"`size` is {size}, but must be positive.", hint="Give the size that the graph takes.")
    locations = label_set if isinstance(label_set, LabelSet) else find_label_set(label_set)
    existing(file, error=WeightsError, what="ONNX file")
    content, found = read_published(file, sha256=facts.sha256)
    output = find_output(content, file, shape=(len(planes), size, size), locations=len(locations))
    graph = torch.from_numpy(np.frombuffer(content, np.uint8).copy())
    network = graph_network(graph, output, channels=len(planes))
    origin = Origin(
        network="onnx",
        variant="",
        file=file.name,
        sha256=found,
        is_published=False,
        source=facts.source,
        license=facts.license,
        citation="",
    )
    adopted = Adopted(
        member=_onnx_member(file.stem, output, channels=len(planes)),
        network=network,
        origin=origin,
        card=_onnx_card(origin, facts, output, channels=planes, size=size, label_set=locations),
        size=size,
        channels=planes,
        label_set=locations,
        caution=facts.caution,
        datasets=tuple(facts.trained_on),
    )
    return write_adopted(adopted, out)


def _onnx_member(name: str, output: GraphOutput, *, channels: int) -> Member:
    """Return the description of a graph in a bundle."""
    return Member(
        name=name,
        recipe="",
        fold=None,
        dataset="",
        backbone="onnx",
        head="plain",
        dropout=0.0,
        mean=[0.0] * channels,
        std=[1.0] * channels,
        each=False,
        graph=Graph(output=output.name, is_probability=output.is_probability),
    )


def _onnx_card(
    origin: Origin, facts: OnnxFacts, output: GraphOutput, *, channels: Sequence[str], size: int, label_set: LabelSet
) -> str:
    """Return the model card in Markdown."""
    kind = "probabilities" if output.is_probability else "logits"
    lines = [
        f"# {Path(origin.file).stem}",
        "",
        "A network that others published as ONNX. It was not trained by cytoloc.",
        "",
        f"- **Source**: {facts.source}",
        f"- **File**: `{origin.file}`, SHA-256 `{origin.sha256}`.",
        f"- **License**: {facts.license}",
        f"- **Input**: {', '.join(channels)}, in this order, {size} px, divided by 255.",
        f"- **Output**: `{output.name}`, {kind} of {len(label_set)} locations ({label_set.name}), not calibrated.",
        f"- **Trained on**: {' and '.join(facts.trained_on) or 'not known'}. Metrics on these fields are too high.",
    ]
    return "\n".join(lines) + "\n"


def find_output(content: bytes, file: Path, *, shape: tuple[int, int, int], locations: int) -> GraphOutput:
    """Return the output of a graph with a value for each location, and whether the values are probabilities.

    Args:
        content: The content of the file.
        file: The file, for messages.
        shape: Channels, height and width of the images.
        locations: Number of locations.

    Returns:
        The output.

    Raises:
        WeightsError: If the file is damaged, takes other images, or has no such output.
        MissingExtraError: If the libraries onnx and onnxruntime are not installed.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise MissingExtraError("Adopting ONNX needs the library onnx.", hint=installing("engines")) from error
    try:
        graph = onnx.load_model_from_string(content).graph
        session = open_session(content)
        inputs = session.get_inputs()
    except MissingExtraError:
        raise
    # The libraries raise different exceptions for damaged and unsupported files.
    except Exception as error:
        raise WeightsError(
            f"{file} cannot be read as an ONNX graph: {first_line(error)}.", hint="Get the file again from its source."
        ) from error
    takes = inputs[0].shape if len(inputs) == 1 else []
    fits = len(takes) == 4 and all(
        not isinstance(have, int) or have == want for have, want in zip(takes[1:], shape, strict=True)
    )
    if not fits or inputs[0].type != "tensor(float)":
        what = ", ".join(f"{each.name}: {each.type} {each.shape}" for each in inputs)
        raise WeightsError(
            f"{file} does not take float images of shape {shape}, but {what}.",
            hint="Check `size` and `channels`.",
        )
    step = takes[0] if isinstance(takes[0], int) else 2
    probe = np.random.default_rng(0).random((step, *shape), np.float32)
    values: dict[str, Any] = dict(
        zip([each.name for each in session.get_outputs()], session.run(None, {inputs[0].name: probe}), strict=True)
    )
    named = [name for name, value in values.items() if value.shape == (step, locations)]
    if len(named) != 1:
        what = ", ".join(f"{name} {value.shape[1:]}" for name, value in values.items())
        raise WeightsError(
            f"{file} has {len(named)} outputs with {locations} values for an image. Its outputs are {what}.",
            hint="Check `label_set`, and that the file is a classifier.",
        )
    output = GraphOutput(named[0], _gives_probabilities(graph, named[0], file))
    found = values[output.name]
    if not np.isfinite(found).all() or (output.is_probability and (found.min() < 0 or found.max() > 1)):
        raise WeightsError(
            f"{file} gives values that are not {'probabilities' if output.is_probability else 'finite'}.",
            hint="Get the file again from its source.",
        )
    return output


def _gives_probabilities(graph: Any, name: str, file: Path) -> bool:
    """Return whether an output has probabilities; False if it has logits. The last node says it."""
    makers = {output: node for node in graph.node for output in node.output}
    node = makers.get(name)
    while node is not None and node.op_type in _SAME_VALUES:
        node = makers.get(node.input[0])
    last = "none" if node is None else node.op_type
    if last in ("Gemm", "MatMul", "Add"):
        return False
    # Older exports write a sigmoid as 1 / (1 + exp(-x)).
    if node is not None and last in ("Div", "Reciprocal"):
        below = makers.get(node.input[-1])
        inner = [makers[made].op_type for made in below.input if made in makers] if below is not None else []
        if below is not None and below.op_type == "Add" and "Exp" in inner:
            return True
    if last == "Sigmoid":
        return True
    raise WeightsError(
        f"{file} ends with the operation {last}, so its output {name} is neither logits nor probabilities of single"
        " locations.",
        hint="Give a graph that ends with a linear layer or a sigmoid.",
    )
