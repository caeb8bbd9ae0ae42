"""Options of training besides the recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from traceback import walk_tb
from typing import Final

import pytorch_lightning as lightning

from cytoloc.choices import Device
from cytoloc.errors import SettingsError
from cytoloc.models.losses import Loss
from cytoloc.training.callbacks import LOG_COLUMNS
from cytoloc.training.distributed import Processes
from cytoloc.training.module import CustomAugmentation, Metric


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """Options of :func:`~cytoloc.train`, including custom augmentation, loss, callbacks and metrics.

    Attributes:
        resume: Whether interrupted runs continue from their last checkpoint. Finished runs are not changed.
        device: ``cuda``, ``mps``, ``cpu``, or ``auto`` for the fastest one available.
        devices: Number of processes per machine that train one run together, one device each. Default: as many as
            torchrun or SLURM started, or one.
        nodes: Number of machines. Default: as many as torchrun or SLURM started, or one.
        processes: The processes, if another launcher than torchrun, SLURM or Lightning started them, such as Ray.
        mlflow: Where to log the runs with MLflow: a tracking URI, such as ``http://127.0.0.1:5000`` or
            ``sqlite:///runs.db``, or the path of a SQLite file.
        augmentation: A function ``augmentation(images, generator)``, called after the augmentation of the recipe.
            ``images`` is uint8 of shape ``(n, channels, size, size)``; the generator is on the CPU. It returns images
            of the same shape, uint8 or float with intensities from 0 to 255.
        loss: A function ``loss(logits, targets)`` that replaces the loss of the recipe. Both are float of shape
            ``(n, locations)``. It returns a scalar tensor.
        callbacks: Lightning callbacks. The same objects are used for all runs of a call.
        metrics: Functions ``metric(probabilities, truth)`` by name, both arrays of shape ``(n, locations)``. They are
            computed on the validation fold after each epoch, and become columns of ``log.csv``.
        report: A function that is called with a line of text after each epoch, or with a progress bar after each run.
        progress_bar: Whether to show a progress bar for the batches of a run.

    Raises:
        SettingsError: If a value has the wrong type, or the name of a metric is invalid.
    """

    resume: bool = False
    device: Device = "auto"
    devices: int | None = None
    nodes: int | None = None
    processes: Processes | None = None
    mlflow: str | Path | None = None
    augmentation: CustomAugmentation | None = None
    loss: Loss | None = None
    callbacks: Sequence[lightning.Callback] = ()
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    report: Callable[[str], None] = print
    progress_bar: bool = False

    def __post_init__(self) -> None:
        for name, count in {"devices": self.devices, "nodes": self.nodes}.items():
            if count is not None and (type(count) is not int or count < 1):
                raise SettingsError(f"`{name}` is {count!r}.", hint="Give an integer of 1 or more, or None.")
        kinds: dict[str, tuple[type, ...]] = {
            "resume": (bool,),
            "processes": (Processes, type(None)),
            "mlflow": (str, Path, type(None)),
            "callbacks": (list, tuple),
            "metrics": (Mapping,),
        }
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                names = " or ".join(each.__name__ for each in kind)
                raise SettingsError(
                    f"`{name}` must be {names}, not {type(getattr(self, name)).__name__}.", hint=f"Give a {names}."
                )
        own = {"augmentation": self.augmentation, "loss": self.loss}
        functions: dict[str, object] = {name: function for name, function in own.items() if function is not None}
        functions |= {"report": self.report, **{f"metrics[{name!r}]": each for name, each in self.metrics.items()}}
        for name, function in functions.items():
            if not callable(function):
                raise SettingsError(f"`{name}` is {function!r}, which is not a function.", hint="Give a function.")
        for name in self.metrics:
            if not isinstance(name, str) or not name.isidentifier() or name in LOG_COLUMNS:
                raise SettingsError(
                    f"`metrics` has the invalid name {name!r}.",
                    hint=f"Use letters, digits and underscores, and no name among {', '.join(LOG_COLUMNS)}.",
                )
        for callback in self.callbacks:
            if not isinstance(callback, lightning.Callback):
                raise SettingsError(
                    f"`callbacks` contains {callback!r}, which is not a Lightning callback.",
                    hint="Derive the class from pytorch_lightning.Callback.",
                )

    @property
    def custom(self) -> dict[str, str]:
        """Qualified names of the custom augmentation and loss, for ``run.json``."""
        return {
            name: qualified_name(function)
            for name, function in {"augmentation": self.augmentation, "loss": self.loss}.items()
            if function is not None
        }

    @contextmanager
    def custom_errors_unchanged(self) -> Iterator[None]:
        """Return a context that raises exceptions of custom functions, even if they were wrapped in others."""
        parts = [self.augmentation, self.loss, *self.callbacks, *self.metrics.values()]
        parts = [part.func if isinstance(part, partial) else part for part in parts if part is not None]
        codes = {getattr(part, "__code__", None) for part in parts} - {None}

        def is_custom(error: BaseException) -> bool:
            frames = [frame for frame, _ in walk_tb(error.__traceback__)]
            owners = [frame.f_locals.get("self") for frame in frames]
            return any(frame.f_code in codes for frame in frames) or any(
                owner is part for owner in owners for part in parts
            )

        original: BaseException | None
        try:
            yield
        except BaseException as error:
            original = error
            while original is not None and not is_custom(original):
                original = original.__cause__ or original.__context__
            if original is None or original is error:
                raise
        else:
            return
        raise original


DEFAULT_OPTIONS: Final = TrainOptions()
"""One process on the fastest device, without tracking and custom functions."""


def qualified_name(function: object) -> str:
    """Return the qualified name of a function, or of the class of a callable object.

    >>> qualified_name(len), qualified_name(partial(len))
    ('builtins.len', 'builtins.len')
    """
    if isinstance(function, partial):
        return qualified_name(function.func)
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"
