"""The REST interface: what it answers, and what it refuses."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import struct
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import polars as pl
import pytest
import tifffile
from starlette.datastructures import FormData, UploadFile

import cytoloc
from cytoloc._typing import UInt8Array
from cytoloc.dataset.store import Dataset, open_dataset
from cytoloc.embed.novelty import comparable, farthest_first
from cytoloc.errors import BusyError, SettingsError
from cytoloc.predict.model import Model
from cytoloc.serve.gallery import Gallery, GalleryFilter
from cytoloc.serve.running import listening
from cytoloc.serve.settings import ServeSettings
from cytoloc.serve.uploads import save_upload, upload_files
from tests.conftest import DATA, Cli
from tests.serve.conftest import TOKEN, Running, png_files, running, wait_until

pytestmark = [
    pytest.mark.filterwarnings("ignore::cytoloc.errors.ModelCaution"),
    pytest.mark.filterwarnings("ignore::cytoloc.errors.EngineWarning"),
]


PERMUTED = [2, 0, 3, 1]
"""The channels of the model in the order of some files."""


def npy(array: Any) -> bytes:
    """Return an array as the content of a NumPy file."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def probabilities(answer: dict[str, Any]) -> dict[str, float]:
    """Return the probability of each location of the first field."""
    return {each["key"]: each["probability"] for each in answer["fields"][0]["locations"]}


def decoded(content: bytes) -> UInt8Array:
    """Return the gray values of a PNG file."""
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return np.asarray(image, np.uint8)


def test_the_same_image_gives_the_same_numbers_in_all_forms(
    server: Running, builtin: Model, field: UInt8Array, tmp_path: Path
) -> None:
    expected = builtin.predict(field)
    by_key = dict(zip(expected.label_set.keys, expected.probabilities[0].tolist(), strict=True))
    tifffile.imwrite(tmp_path / "all.tif", field, metadata={"axes": "CYX"}, photometric="minisblack")
    tiff = {"image": (r"C:\plates\C03_2.ome.tif", (tmp_path / "all.tif").read_bytes())}
    pngs = [(name, (path.name, path.read_bytes())) for name, path in png_files(field, tmp_path).items()]
    by_number = {"channels": json.dumps({name: PERMUTED.index(number) for number, name in enumerate(cytoloc.CHANNELS)})}
    larger = np.stack([*field, field[0] // 2])
    first = json.dumps({name: number for number, name in enumerate(cytoloc.CHANNELS)})
    answers = {
        "one PNG per channel": server.client.post("/v1/predict", files=pngs),
        "TIFF": server.client.post("/v1/predict", files=tiff),
        "array": server.client.post("/v1/predict", files={"image": ("a.npy", npy(field))}),
        "array in another order": server.client.post(
            "/v1/predict",
            files={"image": ("a.npy", npy(field[::-1].copy()))},
            data={"channels": "er,nucleus,protein,microtubules"},
        ),
        "channels of an array by number": server.client.post(
            "/v1/predict", files={"image": ("a.npy", npy(field[PERMUTED]))}, data=by_number
        ),
        "channels of a TIFF by number": server.client.post(
            "/v1/predict", files={"image": ("a.tif", tiff_of(field[PERMUTED]))}, data=by_number
        ),
        "first channels of a larger array": server.client.post(
            "/v1/predict", files={"image": ("a.npy", npy(larger))}, data={"channels": first}
        ),
        "first pages of a larger TIFF": server.client.post(
            "/v1/predict", files={"image": ("a.tif", tiff_of(larger))}, data={"channels": first}
        ),
    }
    for what, response in answers.items():
        assert response.status_code == 200, (what, response.text)
        found = probabilities(response.json())
        assert max(abs(found[key] - value) for key, value in by_key.items()) < 1e-4, what
    first = answers["one PNG per channel"].json()["fields"][0]
    assert first["id"] == "C03"
    assert answers["TIFF"].json()["fields"][0]["id"] == "C03_2"
    decided = {each["name"] for each in first["locations"] if each["predicted"]}
    assert decided == {each.name for each in expected.locations[0]}
    thresholds = expected.provenance["thresholds"]
    assert all(each["threshold"] == pytest.approx(thresholds[each["key"]]) for each in first["locations"])


@pytest.mark.parametrize(
    ("pattern", "ids"),
    [
        ("{channel}_{id}.npy", ["C03", "C04"]),
        ("plate - 1_{channel}_{id}.npy", ["plate - 1_C03", "plate - 1_C04"]),
        ("{id}{channel}.npy", ["C03protein", "C04protein"]),
        ("{channel}.npy", ["protein", "protein_2"]),
        ("{id}.OME.TIF", ["C03", "C04"]),
    ],
)
def test_ids_are_what_the_names_of_the_files_have_in_common(pattern: str, ids: list[str], tmp_path: Path) -> None:
    files = FormData(
        [
            (channel, UploadFile(io.BytesIO(b"x"), filename=pattern.format(id=name, channel=channel)))
            for name in ("C03", "C04")
            for channel in ("nucleus", "protein")
        ]
    )
    with upload_files(tmp_path) as space:
        assert [each.name for each in save_upload(files, space, channels=cytoloc.CHANNELS, max_fields=2).fields] == ids


def test_images_and_maps_of_a_result_can_be_fetched(server: Running, field: UInt8Array) -> None:
    found = server.client.post("/v1/predict", files={"image": ("a.npy", npy(field))}).json()["fields"][0]
    response = server.client.get(found["channels"]["protein"])
    assert response.headers["content-type"] == "image/png"
    assert np.array_equal(decoded(response.content), field[1])
    small = server.client.get(f"{found['channels']['protein']}&size=32")
    assert decoded(small.content).shape == (32, 32)
    nucleoli = next(each for each in found["locations"] if each["name"] == "Nucleoli")
    values = decoded(server.client.get(nucleoli["map"]).content)
    assert values.shape == field.shape[1:]
    assert values.max() == 255
    assert server.client.get("/v1/results/unknown/channel?name=protein").status_code == 404
    assert server.client.get(found["channels"]["protein"].replace("protein", "actin")).status_code == 404
    assert server.client.get(nucleoli["map"].replace("location=2", "location=x")).status_code == 422


def test_missing_channels_are_named_and_can_be_replaced(server: Running, builtin: Model, field: UInt8Array) -> None:
    files = {"image": ("a.npy", npy(field[:3]))}
    names = "microtubules,protein,nucleus"
    response = server.client.post("/v1/predict", files=files, data={"channels": names})
    assert response.status_code == 422
    assert response.json()["missing"] == ["er"]
    assert "but the image has microtubules, protein, nucleus" in response.json()["error"]
    assert "for example `absent=er=zero`" in response.json()["hint"]  # as the next request sends it
    response = server.client.post("/v1/predict", files=files, data={"channels": names, "absent": "er=zero"})
    expected = builtin.predict(field[:3], channels=names.split(","), absent={"er": "zero"})
    assert probabilities(response.json())["2"] == pytest.approx(float(expected.probabilities[0, 2]), abs=1e-4)
    assert "er not imaged" in response.json()["fields"][0]["caution"]


def png_header(width: int, height: int) -> bytes:
    """Return a PNG file that states a size, without its pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">II", width, height) + bytes([8, 0, 0, 0, 0]))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def zip_bomb() -> bytes:
    """Return a zip file of 1 GB of zeros."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("zarr.json", "w") as entry:
        for _ in range(64):
            entry.write(bytes(16 * 1024 * 1024))
    return stream.getvalue()


def tiff_of(array: Any, **options: Any) -> bytes:
    """Return an array as the content of a TIFF file."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **{"photometric": "minisblack", "metadata": None, **options})
    return stream.getvalue()


def ome_tiff_of(array: Any) -> bytes:
    """Return an array as an OME-TIFF file whose channels have the names 1, 2, 3, …"""
    stream = io.BytesIO()
    names = [f"{number}" for number in range(1, len(array) + 1)]
    tifffile.imwrite(stream, array, ome=True, metadata={"axes": "CYX", "Channel": {"Name": names}})
    return stream.getvalue()


BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.png", b"", "is empty"),
    "text": ("a.png", b"hello", "not a PNG file"),
    "no suffix": ("passwd", b"root", "not of a supported kind"),
    "another kind": ("a.txt", b"root", "not of a supported kind"),
    "a path": ("../../../etc/passwd.png", b"root", "not a PNG file"),
    "truncated": ("a.png", png_header(128, 128)[:60], ""),
    "too many pixels": ("a.png", png_header(60_000, 60_000), "px"),
    "a bomb within the limit of edges": ("a.png", png_header(16_000, 16_000), "megapixels"),
    "time points": (
        "a.tif",
        tiff_of(np.zeros((2, 4, 128, 128), np.uint8), metadata={"axes": "TCYX"}),
        "has 2 time points",
    ),
    "zip": ("a.zarr.zip", b"PK\x03\x04 nothing", ""),
    "pickle": ("a.npy", npy(np.array([{"a": 1}], object)), "The array has"),
    "array of another shape": ("a.npy", npy(np.zeros((128, 128), np.uint8)), "has the shape (128, 128)"),
    "array of five channels": (
        "a.npy",
        npy(np.zeros((5, 128, 128), np.uint8)),
        "has 5 channels, but should have exactly these",
    ),
    "array of three channels": (
        "a.npy",
        npy(np.zeros((3, 128, 128), np.uint8)),
        "has 3 channels, but should have exactly these",
    ),
    "3 pages": (
        "a.tif",
        tiff_of(np.zeros((3, 128, 128), np.uint8)),
        "The file has 3 channels, but should have exactly",
    ),
    "2 channels with z planes": (
        "a.ome.tif",
        tiff_of(np.zeros((2, 3, 128, 128), np.uint8), ome=True, metadata={"axes": "CZYX"}),
        "The file has 2 channels, but should have exactly",
    ),
    "20 pages": (
        "a.tif",
        tiff_of(np.zeros((20, 128, 128), np.uint8)),
        "The file has 20 channels, but should have exactly these",
    ),
    "large array": ("a.npy", npy(np.zeros((4, 10, 10), np.uint8)).replace(b"(4, 10, 10)", b"(4, 9999, 9999)"), ""),
    "complex": ("a.npy", npy(np.zeros((4, 128, 128), complex)), "complex"),
    "NaN": ("a.npy", npy(np.full((4, 128, 128), np.nan, np.float32)), ""),
    "small": ("a.npy", npy(np.zeros((4, 64, 64), np.uint8)), "64 x 64 px, but the model needs square images of at"),
    "oblong": ("a.tif", tiff_of(np.zeros((4, 128, 160), np.uint8)), "160 x 128 px, but the model needs square images"),
    "one channel of four": (
        "a.tif",
        tiff_of(np.zeros((128, 128), np.uint8)),
        "has 1 channel, but should have exactly these",
    ),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_gets_a_clear_error(server: Running, kind: str) -> None:
    name, content, message = BAD_FILES[kind]
    response = server.client.post("/v1/predict", files={"image": (name, content)})
    assert response.status_code == 422, response.text
    assert message in response.json()["error"]
    for other in ("Traceback", "cytoloc-upload", "/tmp", "site-packages", "import it", "`time`"):
        assert other not in response.text


def test_a_zip_bomb_is_refused_before_it_is_unpacked(server: Running) -> None:
    response = server.client.post("/v1/predict", files={"image": ("a.zarr.zip", zip_bomb())})
    assert response.status_code == 422
    assert "The zip file holds 1,074 MB" in response.json()["error"]


ABSENT = "microtubules=zero,nucleus=zero,er=zero"

BAD_FORMS: dict[str, tuple[dict[str, str | list[str]], str]] = {
    "unknown field": ({"colour": "x"}, "unknown field"),
    "tta": ({"tta": "3"}, "TTA views"),
    "pixel size": ({"pixel_um": "-1"}, "pixel_um"),
    "pixel size is text": ({"pixel_um": "nan"}, "pixel_um"),
    "substitute": ({"absent": "er=gone"}, "er"),
    "channels": ({"channels": "[1, 2]"}, "channels"),
    "channels nested": ({"channels": "[" * 5000}, ""),
    "channel twice": ({"channels": "protein,protein,er,nucleus,microtubules"}, "list of different names"),
    "channel number twice": ({"channels": '{"protein": 1, "nucleus": 1}'}, "the same number or name for two channels"),
    "channel that is not text": ({"channels": '{"protein": 1, "\\ud800": 1}'}, "list of different names"),
    "no channels": ({"channels": "[]"}, "list of different names"),
    "channel by name in an array": (
        {"channels": '{"protein": "GFP"}', "absent": ABSENT},
        "selects by name, but the channels of a NumPy file",
    ),
    "channel with a large number": (
        {"channels": '{"protein": 4}', "absent": ABSENT},
        "has no channel 4: its channels are 0 to 3",
    ),
    "channel with a negative number": ({"channels": '{"protein": -1}', "absent": ABSENT}, "`channels` must be"),
    "channel with many digits": ({"channels": "9" * 5000}, "list of different names"),
    "channel with a long name": ({"channels": "protein,nucleus,er," + "m" * 300}, "list of different names"),
    "two pixel sizes": ({"pixel_um": ["0.1", "0.2"]}, "The form has `pixel_um` 2 times"),
    "substitute in Python": ({"channels": "protein", "absent": "{'er': 'zero'}"}, "{'er': 'zero'}"),
    "id": ({"id": "a\nb"}, "cannot be printed"),
    "empty id": ({"id": " "}, "id of field 1 is empty"),
    "long id": ({"id": "a" * 201}, "id of field 1 is empty, too long"),
}


@pytest.mark.parametrize("kind", BAD_FORMS)
def test_a_bad_setting_gets_a_clear_error(server: Running, field: UInt8Array, kind: str) -> None:
    data, message = BAD_FORMS[kind]
    response = server.client.post("/v1/predict", files={"image": ("a.npy", npy(field))}, data=data)
    assert response.status_code == 422, response.text
    assert message in response.json()["error"]


def test_a_request_without_images_or_with_unequal_files_is_refused(server: Running, field: UInt8Array) -> None:
    assert server.client.post("/v1/predict", data={"tta": "1"}).status_code == 422
    assert server.client.post("/v1/predict", content=b"x").status_code == 422
    unequal = [("protein", ("a.npy", b"x")), ("protein", ("b.npy", b"x")), ("nucleus", ("c.npy", b"x"))]
    assert "different numbers of files" in server.client.post("/v1/predict", files=unequal).json()["error"]
    many = [("image", ("a.npy", npy(field)))] * 17
    assert "at most 16" in server.client.post("/v1/predict", files=many).json()["error"]
    assert server.client.get("/v1/predict").status_code == 405
    assert server.client.get("/v1/nothing").json()["error"]
    only = server.client.post("/v1/predict", files={"protein": ("a.npy", npy(field))}, data={"absent": ABSENT})
    assert "has 4 channels, but should have exactly these: protein" in only.json()["error"]
    png = cv2.imencode(".png", np.ascontiguousarray(np.moveaxis(field, 0, -1)))[1].tobytes()
    transparent = server.client.post("/v1/predict", files={"image": ("a.png", png)})
    assert "has 3 channels, but should have exactly these" in transparent.json()["error"]
    extra = {"photometric": "rgb", "planarconfig": "separate", "extrasamples": ["unassalpha", "unspecified"]}
    between = tiff_of(np.stack([*field, field[0]]), **extra)
    response = server.client.post("/v1/predict", files={"image": ("a.tif", between)})
    assert "has 4 channels, but should have exactly these" in response.json()["error"], response.text
    stack = tiff_of(field, imagej=True, metadata={"axes": "ZYX"})
    response = server.client.post("/v1/predict", files={"image": ("a.tif", stack)})
    assert "its axes are" in response.json()["error"] or "The axes of the file" in response.json()["error"]
    assert "OME-TIFF" in response.json()["hint"]
    lacking = server.client.post("/v1/predict", files={"image": ("a.png", png)}, data={"absent": "protein=zero"})
    assert lacking.status_code == 422
    absent = {"absent": "er=zero"}
    assert server.client.post("/v1/predict", files={"image": ("a.png", png)}, data=absent).status_code == 200
    second = {"channels": '{"protein": 1}', "absent": ABSENT}
    assert server.client.post("/v1/predict", files={"image": ("a.tif", tiff_of(field))}, data=second).status_code == 200
    one = {"channels": '{"protein": 0}', "absent": ABSENT}
    pages = server.client.post("/v1/predict", files={"image": ("a.tif", tiff_of(field))}, data=one)
    assert "has 4 pages and does not state their axis" in pages.json()["error"]
    assert "OME-TIFF" in pages.json()["hint"]
    alone = {name: ("a.tif", tiff_of(field)) for name in cytoloc.CHANNELS}
    several = server.client.post("/v1/predict", files=alone).json()
    assert "4 pages" in several["error"]
    listed = server.client.post("/v1/predict", files=alone, data={"channels": ",".join(cytoloc.CHANNELS)})
    assert "each channel has its own file" in listed.json()["error"]
    named = {name: (f"{name}.tif", ome_tiff_of(field)) for name in cytoloc.CHANNELS}
    assert "Send `channels`" in server.client.post("/v1/predict", files=named).json()["hint"]
    places = {"channels": json.dumps({name: number for number, name in enumerate(cytoloc.CHANNELS)})}
    assert server.client.post("/v1/predict", files=named, data=places).status_code == 200
    places["channels"] = json.dumps({name: f"{4 - number}" for number, name in enumerate(cytoloc.CHANNELS)})
    assert server.client.post("/v1/predict", files=named, data=places).status_code == 200
    long = {"m" * 300: ("a.npy", npy(field)), "protein": ("b.npy", npy(field))}
    assert server.client.post("/v1/predict", files=long).status_code == 422
    twice = server.client.post("/v1/predict", files=many[:2], data={"id": ["a", "a"]})
    assert "The id 'a' occurs twice" in twice.json()["error"]


def test_awkward_files_get_an_answer_or_an_error(server: Running) -> None:
    folder = DATA / "awkward"
    if not folder.is_dir():
        pytest.skip(f"awkward files are not at {folder}; set CYTOLOC_TEST_DATA")
    paths = [path for kind in ("czi", "depth", "tiff") for path in sorted((folder / kind).rglob("*.*"))]
    assert len(paths) >= 10
    substitutes = {"channels": '{"protein": 0}', "absent": "microtubules=zero,nucleus=zero,er=zero"}
    for path in paths:
        response = server.client.post("/v1/predict", files={"image": (path.name, path.read_bytes())}, data=substitutes)
        assert response.status_code in (200, 422), (path, response.text)
        assert response.json().get("fields") or response.json()["error"]
        assert "cytoloc-upload" not in response.text


def test_a_body_that_is_too_large_is_refused(server: Running) -> None:
    response = server.client.post("/v1/predict", files={"image": ("a.npy", bytes(9_000_000))})
    assert response.status_code == 413

    def chunks() -> Any:
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.npy"\r\n\r\n'
        for _ in range(10):
            yield bytes(1_000_000)

    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    response = server.client.post("/v1/predict", content=chunks(), headers=kind)
    assert response.status_code == 413


def test_other_sites_and_hosts_are_refused(server: Running) -> None:
    assert server.client.get("/v1/model", headers={"Origin": "https://other.example"}).status_code == 403
    assert server.client.get("/v1/model", headers={"Origin": server.address}).status_code == 200
    assert server.client.get("/v1/model", headers={"Host": "other.example"}).status_code == 400
    response = server.client.get("/")
    assert "default-src 'self'" in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in response.headers
    assert server.client.get("/static/%2e%2e/app.py").status_code == 404


def test_the_page_takes_nothing_from_other_addresses() -> None:
    static = Path(cytoloc.__file__).parent / "serve" / "static"
    words = [(path.name, word) for path in static.iterdir() for word in path.read_text().split() if "http" in word]
    assert len(words) >= 2
    assert not [each for each in words if "http://www.w3.org/2000/svg" not in each[1]]


def test_a_service_with_a_token_and_a_rate_limit(builtin: Model) -> None:
    with running(builtin, ServeSettings(token=TOKEN, requests_per_minute=12, readers=1)) as server:
        assert server.client.get("/healthz").text == "ok"
        assert server.client.get("/v1/model").json()["has_dataset"] is False
        for header in ("", "Bearer wrong", f"Basic {TOKEN}", "Bearer"):
            response = server.client.get("/v1/model", headers={"Authorization": header})
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
        assert server.client.get("/metrics", headers={"Authorization": ""}).status_code == 401
        assert "cytoloc_requests_total" in server.client.get("/metrics").text
        assert server.client.get("/v1/dataset").status_code == 422
        assert [server.client.get("/v1/model").status_code for _ in range(12)][-1] == 429
        assert server.client.get("/healthz").status_code == 200


def test_a_batch_job_lists_bad_files_and_gives_tables(server: Running, builtin: Model, fields: Dataset) -> None:
    files = [("image", (f"f{row}.npy", npy(fields[row]))) for row in range(5)]
    files.insert(2, ("image", ("bad.npy", b"nothing")))
    response = server.client.post("/v1/jobs", files=files)
    assert response.status_code == 202, response.text
    job = f"/v1/jobs/{response.json()['id']}"
    wait_until(lambda: server.client.get(job).json()["state"] == "done")
    state = server.client.get(job).json()
    assert (state["done"], state["total"]) == (6, 6)
    assert [each["id"] for each in state["rejected"]] == ["bad"]
    assert state["rejected"][0]["reason"].count(".") >= 2, state  # what is wrong, and what helps
    expected = builtin.predict(fields[:5])
    table = pl.read_csv(io.BytesIO(server.client.get(f"{job}/results").content))
    assert table["id"].to_list() == [f"f{row}" for row in range(5)]
    assert np.allclose(table["Nucleoplasm"].to_numpy(), expected.probabilities[:, 0], atol=1e-4)
    assert server.client.get(f"{job}/results?format=xlsx").content.startswith(b"PK")
    assert server.client.get(f"{job}/results?format=parquet").content.startswith(b"PAR1")
    assert len(server.client.get(f"{job}/results?format=json").json()["fields"]) == 5
    assert server.client.get(f"{job}/results?format=doc").status_code == 422
    server.client.delete(job)
    assert server.client.get(job).status_code == 404


def test_a_job_without_a_channel_is_refused_and_a_cancelled_job_stops(server: Running, fields: Dataset) -> None:
    files = [("image", ("a.npy", npy(fields[0][:1])))]
    assert server.client.post("/v1/jobs", files=files, data={"channels": "protein"}).json()["missing"]
    many = [("image", (f"f{row}.npy", npy(fields[row % 12]))) for row in range(60)]
    job = f"/v1/jobs/{server.client.post('/v1/jobs', files=many).json()['id']}"
    assert server.client.delete(job).json()["state"] == "cancelled"
    assert "cancelled" in server.client.get(f"{job}/results").json()["error"]


def test_requests_at_the_same_time_get_their_own_answers(server: Running, builtin: Model, fields: Dataset) -> None:
    expected = builtin.predict(fields).probabilities[:, 0]

    def one(row: int) -> float:
        answer = server.client.post("/v1/predict", files={"image": ("a.npy", npy(fields[row]))}).json()
        return probabilities(answer)["0"]

    with ThreadPoolExecutor(12) as pool:
        assert np.allclose(list(pool.map(one, range(12))), expected, atol=1e-4)


def test_fields_unlike_all_labeled_ones_are_most_worth_labeling(builtin: Model, fields: Dataset) -> None:
    features = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    gallery = Gallery(fields, builtin, embeddings=cytoloc.Embeddings(fields.ids, features, builtin.fingerprint))
    gallery.labeled = np.arange(12) < 4
    wanted = GalleryFilter(sort="novelty", descending=True)
    order = farthest_first(comparable(features), gallery.labeled)
    assert gallery.find(wanted).tolist() == [*order.tolist(), 0, 1, 2, 3]
    gallery.labeled[order[0]] = True
    assert gallery.find(wanted).tolist()[0] == order[1]


def test_the_dataset_is_filtered_and_sorted(server: Running, builtin: Model, fields: Dataset) -> None:
    expected = builtin.predict(fields)
    decided = expected.decided
    assert decided is not None
    state = server.client.get("/v1/dataset").json()
    assert (state["fields"], state["predicted"], state["labeled"]) == (12, 12, 12)
    assert list(state["counts"].values()) == decided.sum(axis=0).tolist()

    def ids(**query: Any) -> list[str]:
        return [each["id"] for each in server.client.get("/v1/dataset/fields", params=query).json()["fields"]]

    def of(mask: Any) -> set[str]:
        return {fields.ids[row] for row in np.flatnonzero(mask)}

    assert ids() == sorted(fields.ids)
    assert ids(offset=10) == sorted(fields.ids)[10:]
    assert ids(text=fields.ids[3][:20]) == [fields.ids[3]]
    column = expected.probabilities[:, 25]
    largest = np.argsort(-column, kind="stable")
    assert ids(sort="probability", location="25", descending=True) == [fields.ids[row] for row in largest]
    assert set(ids(location="25", min_probability=0.5)) == of(column >= 0.5)
    p = np.clip(expected.probabilities.astype(np.float64), 1e-6, 1 - 1e-6)
    entropy = (-p * np.log2(p) - (1 - p) * np.log2(1 - p)).sum(axis=1)
    assert ids(sort="uncertainty", descending=True) == [fields.ids[row] for row in np.argsort(-entropy)]
    # All fields are labeled, so none is more worth labeling than another.
    assert set(ids(sort="novelty", descending=True)) == set(fields.ids)
    assert set(ids(show="predicted", location="25")) == of(decided[:, 25])
    assert set(ids(show="labeled", location="0")) == of(fields.truth[:, 0])
    assert ids(show="unlabeled") == []
    assert set(ids(show="different")) == of((decided != fields.truth).any(axis=1))
    well = fields.fields["well"][0]
    assert set(ids(well=well)) == set(fields.fields.filter(pl.col("well") == well)["id"])
    assert server.client.get("/v1/dataset/fields?sort=size").status_code == 422
    assert server.client.get("/v1/dataset/fields?location=nowhere").status_code == 422


def test_a_field_of_the_dataset_has_images_maps_and_neighbors(server: Running, builtin: Model, fields: Dataset) -> None:
    name = fields.ids[4]
    found = server.client.get("/v1/dataset/field", params={"id": name}).json()
    assert found["metadata"]["well"] == fields.fields["well"][4]
    assert np.array_equal(decoded(server.client.get(found["channels"]["er"]).content), fields[4][3])
    assert decoded(server.client.get(found["locations"][0]["map"]).content).shape == (128, 128)
    thumbnail = server.client.get("/v1/dataset/thumbnail", params={"id": name, "size": 64})
    assert thumbnail.headers["content-type"] == "image/jpeg"
    near = server.client.get("/v1/dataset/neighbors", params={"id": name, "k": 3}).json()
    features = builtin.embed(fields)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    likeness = unit @ unit[4]
    likeness[4] = -1
    assert [each["id"] for each in near] == [fields.ids[row] for row in np.argsort(-likeness)[:3]]
    assert near[0]["distance"] == pytest.approx(1 - likeness.max(), abs=1e-3)
    assert server.client.get("/v1/dataset/field", params={"id": "nobody"}).status_code == 404
    table = pl.read_csv(io.BytesIO(server.client.get("/v1/dataset/table").content))
    assert table["id"].to_list() == list(fields.ids)


def test_labels_are_saved_and_continued(builtin: Model, fields: Dataset, server: Running) -> None:
    name = fields.ids[0]
    saved = server.client.put("/v1/dataset/labels", params={"id": name}, json={"locations": ["25", "0"]})
    assert saved.json()["corrected"] == ["0", "25"]
    path = server.service.settings.corrections
    assert path is not None
    assert Gallery(fields, builtin, corrections=path).corrections.keys(0) == ["0", "25"]
    # The file is valid as labels.
    assert cytoloc.read_label_list(path, label_set="hpa28").labels[name] == (0, 25)
    shown = server.client.get("/v1/dataset/fields", params={"show": "corrected"}).json()["fields"]
    assert [each["corrected"] for each in shown] == [["Nucleoplasm", "Cytosol"]]
    wrong: list[Any] = [{"locations": []}, {"locations": ["x"]}, {"places": ["0"]}, ["0"]]
    for each in wrong:
        assert server.client.put("/v1/dataset/labels", params={"id": name}, json=each).status_code == 422
    assert server.client.delete("/v1/dataset/labels", params={"id": name}).json()["corrected"] is None
    assert Gallery(fields, builtin, corrections=path).corrections.rows == {}


def test_a_dataset_that_vanishes_is_an_error_not_a_crash(builtin: Model, fields: Dataset, tmp_path: Path) -> None:
    copy = tmp_path / "copy.dataset"
    shutil.copytree(fields.path, copy)
    dataset = open_dataset(copy)
    gallery = Gallery(dataset, builtin, predictions=builtin.predict(fields))
    with running(builtin, ServeSettings(readers=1), gallery=gallery) as server:
        shutil.rmtree(copy)
        response = server.client.get("/v1/dataset/channel", params={"id": dataset.ids[11], "name": "protein"})
        assert response.status_code == 503
        assert "cannot be read any more" in response.json()["error"]
        assert server.client.get("/healthz").status_code == 200


def test_a_predictions_file_and_features_are_those_of_the_model_and_the_dataset(
    builtin: Model, fields: Dataset, tmp_path: Path
) -> None:
    expected = builtin.predict(fields)
    cytoloc.write_predictions(expected, tmp_path / "p.parquet")
    gallery = Gallery(fields, builtin, predictions=cytoloc.read_predictions(tmp_path / "p.parquet"))
    assert gallery.decided is not None
    assert expected.decided is not None
    assert np.array_equal(gallery.decided, expected.decided)
    features = cytoloc.embed_sources(builtin, cytoloc.open_sources([str(fields.path)]))
    turned = cytoloc.Embeddings(features.ids[::-1], features.features[::-1].copy(), features.model)
    found = Gallery(fields, builtin, embeddings=turned).embeddings
    assert found is not None
    assert np.array_equal(found.features, features.features)
    other = cytoloc.Embeddings(features.ids, features.features, "another model")
    with pytest.raises(SettingsError, match="features of another model"):
        Gallery(fields, builtin, embeddings=other)


def test_a_service_for_one_field_at_a_time_finishes_jobs(builtin: Model, fields: Dataset) -> None:
    with running(builtin, ServeSettings(readers=1, max_waiting=1, batch_size=1)) as server:
        answer = server.client.post("/v1/predict", files={"image": ("a.npy", npy(fields[:3]))})
        assert len(answer.json()["fields"]) == 3
        files = [("image", (f"f{row}.npy", npy(fields[row]))) for row in range(2)]
        job = f"/v1/jobs/{server.client.post('/v1/jobs', files=files).json()['id']}"
        wait_until(lambda: server.client.get(job).json()["state"] == "done")


def test_an_unexpected_error_of_the_model_costs_its_own_request(
    builtin: Model, field: UInt8Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(builtin, ServeSettings(readers=1)) as server:

        def fail(*_arguments: Any, **_options: Any) -> Any:
            raise KeyError("a defect")

        with monkeypatch.context() as broken:
            broken.setattr(server.service.model, "predict_sources", fail)
            response = server.client.post("/v1/predict", files={"image": ("a.npy", npy(field))})
            assert response.status_code == 500
            assert "a defect" not in response.text
        response = server.client.post("/v1/predict", files={"image": ("a.npy", npy(field))})
        assert response.status_code == 200


def test_a_folder_that_vanished_is_made_again_and_a_full_disk_is_named(
    builtin: Model, field: UInt8Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/secret/a.npy")

    files = {"image": ("a.npy", npy(field))}
    with running(builtin, ServeSettings(readers=1)) as server:
        shutil.rmtree(server.service.uploads)
        assert server.client.post("/v1/predict", files=files).status_code == 200
        with monkeypatch.context() as broken:
            broken.setattr("cytoloc.serve.uploads.shutil.copyfileobj", full)
            response = server.client.post("/v1/predict", files=files)
        assert (response.status_code, "secret" in response.text) == (503, False)
        assert "its disk is full" in response.json()["error"]
        assert not list(server.service.uploads.iterdir())


def test_a_model_without_a_decision_has_no_thresholds(builtin: Model, field: UInt8Array) -> None:
    model = Model(builtin.networks, builtin.info, device="cpu", engine="torch")
    with running(model, ServeSettings(readers=1)) as server:
        assert server.client.get("/v1/model").json()["thresholds"] is None
        found = server.client.post("/v1/predict", files={"image": ("a.npy", npy(field))}).json()["fields"][0]
        assert found["locations"][0]["threshold"] is None
        assert found["locations"][0]["predicted"] is None


def test_jobs_are_finished_when_the_service_stops(builtin: Model, fields: Dataset) -> None:
    with running(builtin, ServeSettings(readers=1, batch_size=2)) as server:
        uploads = server.service.uploads
        files = [("image", (f"f{row}.npy", npy(fields[row]))) for row in range(6)]
        assert server.client.post("/v1/predict", files=files[:2]).status_code == 200
        bad = [("image", ("a.npy", npy(fields[0]))), ("image", ("b.doc", b"x"))]
        assert server.client.post("/v1/predict", files=bad).status_code == 422
        assert list(uploads.iterdir()) == []
        job_id = server.client.post("/v1/jobs", files=files).json()["id"]
    job = server.service.jobs.get(job_id)
    assert (job.state, job.done) == ("done", 6)
    assert not uploads.exists()


def test_a_port_in_use_and_open_settings_are_refused() -> None:
    with listening("127.0.0.1", 0) as taken, pytest.raises(BusyError, match="Another program uses port"):
        listening("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(SettingsError, match="cannot listen"):
        listening("203.0.113.9", 8123)
    with pytest.raises(SettingsError, match="no `token`"):
        ServeSettings(host="0.0.0.0")
    with pytest.raises(SettingsError, match="too short"):
        ServeSettings(token="x")
    with pytest.raises(SettingsError, match="`port` is 0"):
        ServeSettings(port=0)


def test_the_command_refuses_what_cannot_work(cli: Cli, tmp_path: Path) -> None:
    assert "needs a --dataset" in cli("serve", "builtin", "--corrections", tmp_path / "a.csv").err
    assert "does not exist" in cli("serve", "builtin", "--dataset", tmp_path / "none.dataset", "--port", 18765).err
    with listening("127.0.0.1", 0) as taken:
        outcome = cli("serve", "builtin", "--port", taken.getsockname()[1])
    assert outcome.code == 1
    assert "Another program uses port" in outcome.err
