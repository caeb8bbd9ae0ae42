"""The HTTP interface to the dataset that the page shows."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final
from urllib.parse import quote

import numpy as np
from fastapi import FastAPI, Query
from fastapi.responses import Response
from pydantic import BaseModel, Field

from cytoloc.errors import UnknownIdError
from cytoloc.serve.answers import CorrectionRequest, FieldAnswer
from cytoloc.serve.downloads import TableFormat, png_of, table_response, thumbnail
from cytoloc.serve.gallery import Gallery, GalleryFilter
from cytoloc.serve.service import Service

THUMBNAIL_PX: Final = 192

_PNG: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {"image/png": {}}, "description": "A PNG image."}}
_JPEG: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {"image/jpeg": {}}, "description": "A JPEG image."}}

FieldId = Annotated[str, Query(description="Id of the field.", max_length=1000)]


class DatasetAnswer(BaseModel):
    """The dataset, and how many of its fields are predicted."""

    name: str = Field(description="Name of the dataset.")
    fields: int = Field(description="Number of fields.")
    predicted: int = Field(description="Number of fields that are predicted.")
    labeled: int = Field(description="Number of labeled fields.")
    corrected: int = Field(description="Number of fields with labels that were saved in the page.")
    channels: list[str] = Field(description="Channels, in order.")
    size_px: int = Field(description="Edge length of the images, in pixels.")
    plates: list[str] = Field(description="Plates.")
    wells: list[str] = Field(description="Wells.")
    counts: dict[str, int] = Field(description="Number of fields that are predicted to have each location, by key.")
    error: str = Field(description="Why the dataset could not be predicted; empty if it could.")


class GalleryItem(BaseModel):
    """A field in the gallery."""

    id: str
    thumbnail: str = Field(description="Address of the color composite, a JPEG image.")
    locations: list[str] = Field(description="Names of the predicted locations, or of the most probable one.")
    probability: float | None = Field(description="Probability that the gallery is sorted by; null if not predicted.")
    uncertainty: float | None = Field(description="Sum of the entropies of all probabilities, in bits.")
    caution: str
    labels: list[str] | None = Field(description="Names of the labeled locations.")
    corrected: list[str] | None = Field(description="Names of the locations that were saved in the page.")
    metadata: dict[str, str]


class GalleryAnswer(BaseModel):
    """A page of the gallery."""

    total: int = Field(description="Number of fields that match the filter.")
    offset: int
    fields: list[GalleryItem]


class NeighborAnswer(BaseModel):
    """A field whose features are like those of another field."""

    id: str
    distance: float = Field(description="Cosine distance, from 0 to 2.")
    thumbnail: str
    labels: list[str] | None = Field(description="Names of the labeled locations.")
    locations: list[str] = Field(description="Names of the predicted locations.")


def add_gallery_routes(app: FastAPI, service: Service) -> None:
    """Add the routes of the dataset. All raise :class:`~cytoloc.errors.SettingsError` if there is no dataset."""

    @app.get("/v1/dataset", summary="The dataset")
    async def dataset() -> DatasetAnswer:
        """Return the number of fields, plates and wells, and how many fields are predicted."""
        gallery = service.shown()
        decided = gallery.decided
        keys = service.model.label_set.keys
        counts = (
            dict.fromkeys(keys, 0) if decided is None else dict(zip(keys, decided.sum(axis=0).tolist(), strict=True))
        )
        table = gallery.dataset.fields
        wells: list[str] = table["well"].drop_nulls().unique().to_list()
        # A2 comes before A10.
        wells.sort(key=lambda well: (row := well.rstrip("0123456789"), int(well[len(row) :] or -1), well))
        return DatasetAnswer(
            name=str(gallery.dataset.path).rstrip("/").rpartition("/")[2],
            fields=len(gallery.dataset),
            predicted=gallery.done,
            labeled=int(gallery.labeled.sum()),
            corrected=len(gallery.corrections.rows),
            channels=list(gallery.dataset.channels),
            size_px=gallery.dataset.size,
            plates=table["plate"].drop_nulls().unique().sort().to_list()[:1000],
            wells=wells[:2000],
            counts=counts,
            error=gallery.error,
        )

    @app.get("/v1/dataset/fields", summary="Fields of the dataset")
    async def fields(
        wanted: Annotated[GalleryFilter, Query()],
    ) -> GalleryAnswer:
        """Return the fields that match a filter, in order."""
        gallery = service.shown()
        if wanted.sort == "novelty":
            await gallery.features(service.batcher)
        rows = await asyncio.to_thread(gallery.find, wanted)
        some = rows[wanted.offset : wanted.offset + wanted.limit].tolist()
        uncertainty = gallery.uncertainty[some] if some else np.empty(0, np.float32)
        items = [
            _item(gallery, row, wanted.location, float(value)) for row, value in zip(some, uncertainty, strict=True)
        ]
        return GalleryAnswer(total=len(rows), offset=wanted.offset, fields=items)

    @app.get("/v1/dataset/table", summary="Predictions of the dataset as a table", response_class=Response)
    async def table(format: TableFormat = "csv") -> Response:  # noqa: A002
        """Return the predictions of all fields that are predicted."""
        return await asyncio.to_thread(table_response, service.shown().predictions(), format)


def add_field_routes(app: FastAPI, service: Service) -> None:
    """Add the routes of single fields of the dataset. All raise as those of :func:`add_gallery_routes`."""

    @app.get("/v1/dataset/field", summary="One field of the dataset")
    async def field(id: FieldId) -> FieldAnswer:  # noqa: A002  the name in the address
        """Return the predictions, labels and metadata of a field."""
        return service.gallery_answer(service.shown().dataset.row(id))

    @app.get("/v1/dataset/channel", summary="Image of a channel", response_class=Response, responses=_PNG)
    async def channel(id: FieldId, name: str) -> Response:  # noqa: A002
        """Return a channel of a field."""
        gallery = service.shown()
        row = gallery.dataset.row(id)
        if name not in gallery.dataset.channels:
            raise UnknownIdError(f"The dataset has no channel {name[:80]!r}.")
        image = await asyncio.to_thread(gallery.image, row)
        content = await asyncio.to_thread(png_of, image[gallery.dataset.channels.index(name)])
        return Response(content, media_type="image/png")

    @app.get("/v1/dataset/thumbnail", summary="Color composite", response_class=Response, responses=_JPEG)
    async def small(
        id: FieldId,  # noqa: A002
        size: Annotated[int, Query(ge=16, le=1024)] = THUMBNAIL_PX,
    ) -> Response:
        """Return the color composite of a field."""
        gallery = service.shown()
        image = await asyncio.to_thread(gallery.image, gallery.dataset.row(id))
        content = await asyncio.to_thread(thumbnail, image, gallery.dataset.channels, size=size)
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=300"})

    @app.get("/v1/dataset/map", summary="Class activation map", response_class=Response, responses=_PNG)
    async def location_map(id: FieldId, location: str) -> Response:  # noqa: A002
        """Return where in a field the model sees a location: a gray image, white where its strongest signs are."""
        row = service.shown().dataset.row(id)
        return Response(png_of(await service.gallery_map(row, location)), media_type="image/png")

    @app.get("/v1/dataset/neighbors", summary="Fields that look alike")
    async def neighbors(
        id: FieldId,  # noqa: A002
        k: Annotated[int, Query(ge=1, le=50)] = 8,
    ) -> list[NeighborAnswer]:
        """Return the fields of the dataset whose features are most alike. The first request computes all features."""
        gallery = service.shown()
        found = await gallery.neighbors(gallery.dataset.row(id), service.batcher, k=k)
        return [
            NeighborAnswer(
                id=gallery.dataset.ids[row],
                distance=round(distance, 4),
                thumbnail=_thumbnail_address(gallery, row),
                labels=_names(gallery, gallery.label_keys(row)),
                locations=_predicted(gallery, row),
            )
            for row, distance in found
        ]

    @app.put("/v1/dataset/labels", summary="Save the labels of a field")
    async def save(id: FieldId, wanted: CorrectionRequest) -> FieldAnswer:  # noqa: A002
        """Save the locations that a user sees in a field, in the file for labels."""
        gallery = service.shown()
        row = gallery.dataset.row(id)
        gallery.corrections.save(row, wanted.locations)
        return service.gallery_answer(row)

    @app.delete("/v1/dataset/labels", summary="Remove the saved labels of a field")
    async def remove(id: FieldId) -> FieldAnswer:  # noqa: A002
        """Remove the locations that were saved for a field."""
        gallery = service.shown()
        row = gallery.dataset.row(id)
        gallery.corrections.remove(row)
        return service.gallery_answer(row)


def _item(gallery: Gallery, row: int, location: str, uncertainty: float) -> GalleryItem:
    """Return a field as the gallery shows it."""
    probability: float | None = None
    if row < gallery.done:
        values = gallery.probabilities[row]
        probability = float(values[gallery.model.label_set.keys.index(location)] if location else values.max())
    return GalleryItem(
        id=gallery.dataset.ids[row],
        thumbnail=_thumbnail_address(gallery, row),
        locations=_predicted(gallery, row),
        probability=probability,
        uncertainty=round(uncertainty, 4) if row < gallery.done else None,
        caution=gallery.cautions[row],
        labels=_names(gallery, gallery.label_keys(row)),
        corrected=_names(gallery, gallery.corrections.keys(row)),
        metadata=gallery.metadata(row),
    )


def _predicted(gallery: Gallery, row: int) -> list[str]:
    """Return the names of the predicted locations of a field; without a decision, of the most probable one."""
    if row >= gallery.done:
        return []
    values = gallery.probabilities[row]
    places = [int(values.argmax())] if gallery.decided is None else np.flatnonzero(gallery.decided[row]).tolist()
    return [gallery.model.label_set[place].name for place in sorted(places, key=lambda place: -values[place])]


def _names(gallery: Gallery, keys: list[str] | None) -> list[str] | None:
    """Return the names of locations."""
    label_set = gallery.model.label_set
    return None if keys is None else [label_set[label_set.keys.index(key)].name for key in keys]


def _thumbnail_address(gallery: Gallery, row: int) -> str:
    """Return the address of the color composite of a field."""
    return f"/v1/dataset/thumbnail?id={quote(gallery.dataset.ids[row], safe='')}"
