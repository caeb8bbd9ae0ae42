"""A trained model: one or more runs whose probabilities are averaged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from cytoloc.dataset.quarantine import Rejected
from cytoloc.dataset.store import Dataset
from cytoloc.decide.decision import Decision
from cytoloc.errors import ImageError, SettingsError
from cytoloc.labels import LabelSet
from cytoloc.lists import refuse_repeated
from cytoloc.models.network import Network
from cytoloc.predict.planes import find_planes
from cytoloc.predict.prediction import Prediction, fields_of
from cytoloc.predict.sources import DatasetSource, Source, open_source
from cytoloc.predict.tta import TTA_VIEWS, mean_logits
from cytoloc.predictions import Predictions

BATCH: Final = 16


class Scored(NamedTuple):
    """The predictions of the fields that could be read, and those that could not, with the reason."""

    predictions: Predictions
    rejected: tuple[Rejected, ...]


class Model:
    """Networks of one input size, ready to predict.

    Attributes:
        size: Edge of the images that the networks see, in pixels.
        channels: Names of the channels that they see, in order.
        label_set: The locations that they predict.
        device: Where the networks compute: a GPU if there is one.
        tta: How many flips and turns logits are averaged over, unless told otherwise.
        provenance: What it was made from; JSON values only.
        trained_on: Ids of the fields that any of the networks learned from.
        decision: Calibrates the networks' mean probabilities, and decides on locations; None without.
        caution: What is said with every prediction; may be empty.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        *,
        size: int,
        channels: Sequence[str],
        label_set: LabelSet,
        tta: int,
        provenance: dict[str, Any],
        trained_on: frozenset[str] = frozenset(),
        decision: Decision | None = None,
        caution: str = "",
        device: torch.device | None = None,
    ) -> None:
        if decision is not None:
            label_set.refuse_other(decision.label_set, what="the decision", than="the model")
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.networks = [network.to(self.device).eval() for network in networks]
        self.size = size
        self.channels = tuple(channels)
        self.label_set = label_set
        self.tta = tta
        self.provenance = provenance
        self.trained_on = trained_on
        self.decision = decision
        self.caution = caution

    def predict(
        self,
        images: NDArray[Any] | Dataset | str | Path,
        *,
        channels: Sequence[str] | None = None,
        absent: Mapping[str, str] | None = None,
        tta: int | None = None,
    ) -> Prediction:
        """Return the probabilities of images in memory, or of a dataset or folder, and their locations.

        Args:
            images: ``(n, channels, h, w)`` or ``(channels, h, w)``, uint8, uint16 or float; a dataset; or the path of
                a dataset or of a folder of the competition's files.
            channels: Names of the channels of an array, in order; by default those of the model.
            absent: The substitute for each channel that the model sees and the images lack: ``"zero"``, or the name of
                another channel. See :func:`cytoloc.predict.planes.find_planes`.
            tta: 1, 2, 4 or 8; by default the recipe's.

        Raises:
            ImageError: If images are not what they must be, or none could be read.
            ChannelError: If the images lack a channel and no substitute is named.
            SettingsError: If there is no such number of views.
        """
        bad: tuple[Rejected, ...] = ()
        if tta is not None and tta not in TTA_VIEWS:
            raise SettingsError(
                f"Invalid number of TTA views: {tta}.", hint=f"Choose one of {', '.join(map(str, TTA_VIEWS))}."
            )
        if not isinstance(images, np.ndarray | Dataset | str | Path):
            raise ImageError(
                f"Images must be a NumPy array, a dataset or a path; this is {type(images).__name__}.",
                hint="Make an array of it: numpy.asarray(images).",
            )
        if isinstance(images, np.ndarray):
            given = self.channels if channels is None else tuple(channels)
            planes = find_planes(self.channels, given, absent=absent, where="The array")
            fields = planes.of(fields_of(images, size=self.size, channels=given))
            parts = [self.probabilities(fields[i : i + BATCH], tta=tta) for i in range(0, len(fields), BATCH)]
            probabilities = np.concatenate(parts)
            ids = tuple(str(number) for number in range(len(fields)))
        else:
            if channels is not None:
                raise SettingsError(
                    "channels names the channels of an array; a dataset or a folder states its own.",
                    hint="Leave out channels.",
                )
            source = DatasetSource(images) if isinstance(images, Dataset) else open_source(images)
            predictions, bad = self.score(source, tta=tta, absent=absent)
            ids, probabilities = predictions.ids, predictions.probabilities
        predicted = None if self.decision is None else self.decision.decided(probabilities)
        rejected = {each.id: each.reason for each in bad}
        return Prediction(ids, probabilities, predicted, self.caution, rejected, self.label_set)

    def probabilities(self, fields: NDArray[np.uint8], *, tta: int | None = None) -> NDArray[np.float32]:
        """Return the probability of each location, float32 ``(n, locations)``.

        Per network, logits are averaged over views; the networks' probabilities are averaged, and calibrated by the
        decision if there is one.

        Args:
            fields: uint8 ``(n, channels, size, size)`` at the model's own size, in the order of its channels.
            tta: 1, 2, 4 or 8.

        Raises:
            ImageError: If the fields have another shape or type.
        """
        shape = (len(self.channels), self.size, self.size)
        if fields.dtype != np.uint8 or fields.ndim != 4 or fields.shape[1:] != shape:
            raise ImageError(
                f"The model takes uint8 (n, {len(self.channels)}, {self.size}, {self.size});"
                f" this is {fields.dtype} {fields.shape}."
            )
        pixels = torch.from_numpy(np.ascontiguousarray(fields)).to(self.device)
        with torch.inference_mode():
            each = [torch.sigmoid(mean_logits(n, pixels, tta=tta or self.tta)) for n in self.networks]
        mean = torch.stack(each).mean(dim=0).cpu().numpy()
        if self.decision is not None:
            mean = self.decision.probabilities({self.decision.members[0]: mean})
        return np.asarray(mean, np.float32)

    def score(
        self,
        *sources: Source,
        tta: int | None = None,
        absent: Mapping[str, str] | None = None,
        strict: bool = False,
        advance: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> Scored:
        """Return predictions for every field of some sources, and the fields that could not be read.

        Args:
            sources: From :func:`cytoloc.predict.sources.open_source`.
            tta: 1, 2, 4 or 8; by default the recipe's.
            absent: The substitute for each channel that the sources lack; see :meth:`predict`.
            strict: Stop at the first field that cannot be read.
            advance: Told after each batch how many fields of how many are done.

        Raises:
            ImageError: If no field could be read, or with ``strict`` one could not.
            TableError: If two sources have a field of the same id.
            ChannelError: If a source lacks a channel and no substitute is named.
        """
        tta = tta or self.tta
        total = sum(len(source.ids) for source in sources)
        refuse_repeated([name for source in sources for name in source.ids], where="the fields to predict")
        found = [find_planes(self.channels, each.channels, absent=absent, where=each.name) for each in sources]
        parts = [np.empty((0, len(self.label_set)), np.float32)]
        ids: list[str] = []
        bad: list[Rejected] = []
        batches = (
            (planes, batch)
            for source, planes in zip(sources, found, strict=True)
            for batch in source.batches(self.size, BATCH)
        )
        for planes, batch in batches:
            if batch.ids:
                parts.append(self.probabilities(planes.of(batch.images), tta=tta))
            ids += batch.ids
            bad += batch.rejected
            if bad and strict:
                raise ImageError(bad[0].reason, hint="Mend or remove it, or leave out --strict.")
            advance(len(ids) + len(bad), total)
        if bad and not ids:
            raise ImageError(f"None of {len(bad)} fields could be read, as in: {bad[0].reason}")
        made_by = {
            **self.provenance,
            "tta": tta,
            "source": ", ".join(source.name for source in sources),
            "fields_trained_on": len(self.trained_on.intersection(ids)),
            **({"absent": dict(absent)} if absent else {}),
        }
        return Scored(Predictions(tuple(ids), np.concatenate(parts), self.label_set, made_by), tuple(bad))
