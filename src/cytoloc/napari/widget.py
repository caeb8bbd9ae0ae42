"""The widget "Predict locations" of napari."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from magicgui.widgets import CheckBox, ComboBox, Container, Label, LineEdit, PushButton, Table
from napari.layers import Image
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error
from numpy.typing import NDArray

from cytoloc._typing import Float32Array
from cytoloc.channels import ZERO
from cytoloc.errors import ChannelError, CytolocError, ModelCaution
from cytoloc.images.depth import DepthRule, all_to_8_bit

if TYPE_CHECKING:
    from cytoloc.predict.model import Model
    from cytoloc.predictions import Predictions

ABSENT: Final = "not imaged"
"""The choice for a channel that was not imaged."""

MAP: Final = "cytoloc_map"
"""The key in the metadata of a layer that says that it is a map."""

MOST_MAPS: Final = 6
"""Maximum number of maps that are added as layers."""


class Found(NamedTuple):
    """The result of a prediction.

    Attributes:
        predictions: The predictions of the field.
        maps: The map of each predicted location, float32 of shape ``(h, w)``, by its name.
        caution: Cautions about the model and the image.
    """

    predictions: Predictions
    maps: dict[str, Float32Array]
    caution: str


def predict_planes(model: Model, planes: Mapping[str, NDArray[Any]], *, with_maps: bool = True) -> Found:
    """Predict the locations of the protein in one field.

    Args:
        model: The model.
        planes: The image of each channel, shape ``(h, w)``. Channels of the model that are missing are replaced by a
            black image.
        with_maps: Whether to compute the maps of the predicted locations.

    Returns:
        The predictions and the maps.

    Raises:
        ChannelError: If the protein is missing.
        ImageError: If the images have different sizes, or are too small for the model.
    """
    if "protein" not in planes:
        raise ChannelError("No layer is chosen for the protein.", hint="Choose the layer of the protein.")
    if len({plane.shape for plane in planes.values()}) > 1:
        each = ", ".join(f"{name} {plane.shape}" for name, plane in planes.items())
        raise ChannelError(f"The layers have different sizes: {each}.", hint="Choose layers of one field.")
    absent = dict.fromkeys((name for name in model.channels if name not in planes), ZERO)
    # Each layer by its own pixel type, before stacking makes one of them.
    eight = all_to_8_bit(list(planes.values()), DepthRule(), called=tuple(planes)).image
    planes = dict(zip(planes, eight, strict=True))
    images = np.stack(list(planes.values()))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ModelCaution)
        found = model.predict(images, channels=list(planes), absent=absent)
    decided = found.probabilities[0] >= 0.5 if found.decided is None else found.decided[0]
    order = np.argsort(-found.probabilities[0], kind="stable")
    keys = [found.label_set.keys[place] for place in order if decided[place]][:MOST_MAPS]
    maps: dict[str, Float32Array] = {}
    if with_maps and keys:
        black = np.zeros_like(planes["protein"])
        explained = model.explain(np.stack([planes.get(name, black) for name in model.channels]), locations=keys)
        names = [found.label_set[found.label_set.keys.index(key)].name for key in explained.locations]
        maps = dict(zip(names, explained.maps[0], strict=True))
    return Found(found, maps, " ".join(dict.fromkeys(str(each.message) for each in caught)))


class PredictWidget(Container[Any]):
    """The widget: which layer is which channel, a button, and a table of probabilities.

    Args:
        viewer: The viewer of napari.
    """

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._model: Model | None = None
        self._path = LineEdit(
            label="Model",
            value="builtin",
            tooltip="builtin, builtin-protein-nucleus, builtin-protein, a bundle (.cytoloc), or a run",
        )
        self._load_button = PushButton(text="Load the model")
        self._channels = Container[ComboBox](labels=True)
        self._maps = CheckBox(text="Add maps of the predicted locations", value=True)
        self._run = PushButton(text="Predict locations", enabled=False)
        self._note = Label(value="Load a model first.")
        self._table = Table(value={"location": [], "probability": [], "predicted": []})
        super().__init__(
            widgets=[self._path, self._load_button, self._channels, self._maps, self._run, self._note, self._table]
        )
        self._load_button.changed.connect(self.load)
        self._run.changed.connect(self.predict)
        viewer.layers.events.inserted.connect(self._fill)
        viewer.layers.events.removed.connect(self._fill)

    def load(self) -> None:
        """Load the model, and show a choice for each of its channels."""
        from cytoloc.predict.loading import load

        self._work(partial(load, self._path.value), self._loaded, "Loading the model…")

    def _loaded(self, model: Model) -> None:
        self._model = model
        self._channels.clear()
        self._channels.extend([ComboBox(name=name, label=name, choices=[ABSENT]) for name in model.channels])
        self._fill()
        self._note.value = model.info.caution or "Choose the layer of each channel."
        self._run.enabled = True

    def _fill(self, _event: object = None) -> None:
        """Offer the image layers for each channel. A new layer with the name of a channel is chosen for it."""
        names = [
            layer.name
            for layer in self._viewer.layers
            if isinstance(layer, Image) and not layer.rgb and MAP not in layer.metadata
        ]
        for box in self._channels:
            before, offered = box.value, set(box.choices)
            box.choices = [ABSENT, *names]
            new = (name for name in names if name not in offered and self._is_channel(name, box.name))
            box.value = before if before in names else next(new, ABSENT)

    def _is_channel(self, layer: str, channel: str) -> bool:
        found = self._viewer.layers[layer]
        return found.metadata.get("channel", "") == channel or channel in layer.lower().split()

    def planes(self) -> dict[str, NDArray[Any]]:
        """Return the image of each chosen channel, as it is shown."""
        chosen = {box.name: self._viewer.layers[box.value] for box in self._channels if box.value != ABSENT}
        return {name: self._shown(layer) for name, layer in chosen.items()}

    def _shown(self, layer: Any) -> NDArray[Any]:
        """Return the plane of a layer at the current position of the sliders."""
        first = layer.data[0] if layer.multiscale else layer.data
        step = self._viewer.dims.current_step[-len(first.shape) :]
        return np.asarray(first[tuple(step[:-2])] if len(first.shape) > 2 else first)

    def predict(self) -> None:
        """Predict the locations of the field that is shown."""
        if self._model is None:
            return
        call = partial(predict_planes, self._model, self.planes(), with_maps=self._maps.value)
        self._work(call, self.show_result, "Predicting…")

    def show_result(self, found: Found) -> None:
        """Show the probabilities in the table, and the maps as layers."""
        predictions = found.predictions
        values = predictions.probabilities[0]
        order = np.argsort(-values, kind="stable")
        decided = None if predictions.decided is None else predictions.decided[0]
        self._table.value = {
            "location": [predictions.label_set[place].name for place in order],
            "probability": [round(float(values[place]), 3) for place in order],
            "predicted": ["" if decided is None else "yes" if decided[place] else "no" for place in order],
        }
        cautions = [text for text in (*predictions.cautions, found.caution) if text]
        self._note.value = " ".join(cautions) or "Done."
        reference = next(self._viewer.layers[box.value] for box in self._channels if box.value != ABSENT)
        shape = reference.data[0].shape[-2:] if reference.multiscale else reference.data.shape[-2:]
        for name, values_of_map in found.maps.items():
            factor = np.array(shape) / values_of_map.shape
            scale = reference.scale[-2:] * factor
            title = f"map: {name}"
            if title in self._viewer.layers:
                self._viewer.layers.remove(title)
            self._viewer.add_image(
                values_of_map,
                name=title,
                scale=scale,
                translate=reference.translate[-2:] + (factor - 1) / 2 * reference.scale[-2:],
                colormap="inferno",
                blending="additive",
                opacity=0.6,
                contrast_limits=(0, 1),
                visible=name == next(iter(found.maps)),
                metadata={MAP: name},
            )

    def _work(self, call: Callable[[], Any], done: Callable[[Any], None], note: str) -> None:
        """Do something in the background, and then pass on its value. Errors are shown."""
        self._note.value = note
        worker = create_worker(call)
        worker.returned.connect(done)
        worker.errored.connect(self._failed)
        worker.start()

    def _failed(self, error: Exception) -> None:
        self._note.value = str(error) if isinstance(error, CytolocError) else f"{type(error).__name__}: {error}"
        show_error(self._note.value)
