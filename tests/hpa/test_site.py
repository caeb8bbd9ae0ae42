"""One site: which addresses are allowed, when requests are sent, and downloads from a site that may be wrong."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import stamina

from cytoloc.errors import FetchError, FormatError, ImageError
from cytoloc.hpa.site import (
    AddressError,
    FailedFile,
    Received,
    RemoteFile,
    Site,
    SiteBusyError,
    SiteOptions,
    host_of,
    is_of_the_atlas,
    redirect_fault,
    retry_after_s,
)
from cytoloc.hpa.store import FetchFolder
from tests.hpa.site_double import AtlasSite, Fault

PATH = "/images/4109/24_H11_1_green.jpg"
BODY = bytes(range(256)) * 400


class FakeTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, wait_s: float) -> None:
        self.slept.append(wait_s)
        self.now += wait_s
        await asyncio.sleep(0)


def is_body(path: Path, _file: RemoteFile) -> None:
    """Refuse what is not the file, as the check of an image does."""
    if path.read_bytes() != BODY:
        raise ImageError("The file is damaged.", hint="Look at it.")


class Result:
    """What became of one file."""

    def __init__(
        self,
        image: AtlasSite,
        out: Path,
        *,
        url: str = "",
        check: Callable[[Path, RemoteFile], None] = is_body,
        **options: Any,
    ) -> None:
        self.failed: list[FailedFile] = []
        self.received: list[Received] = []
        self.reported: list[str] = []
        self.time = FakeTime()
        self.path = out / "a.jpg"
        given = {"attempts": 4, "timeout_s": 5.0, "rate_per_s": 1000, "contact": "me@example.org", **options}
        site = Site(
            image.base,
            SiteOptions(report=self.reported.append, clock=self.time.clock, sleep=self.time.sleep, **given),
        )
        with (
            FetchFolder(out, base=image.base).opened() as folder,
            stamina.set_testing(True, attempts=given["attempts"]),
        ):
            remote = RemoteFile("a.jpg", url or image.base + PATH)
            site.fetch_files(
                folder, [remote], check, failed=self.failed, received=lambda _file, found: self.received.append(found)
            )
            assert not list(folder.catalog.glob(".*.part"))

    @property
    def reason(self) -> str:
        """Why the file could not be fetched."""
        assert not self.path.exists()
        return self.failed[0].reason


@pytest.fixture
def image(site: AtlasSite) -> AtlasSite:
    site.files[PATH] = BODY
    return site


def test_a_file_is_received_with_its_hash_and_tag(image: AtlasSite, tmp_path: Path) -> None:
    result = Result(image, tmp_path / "v18")
    digest = hashlib.sha256(BODY).hexdigest()
    assert (result.path.read_bytes(), result.failed) == (BODY, [])
    assert result.received == [(len(BODY), digest, f'"{digest[:12]}"')]
    (asked,) = image.requests(PATH)
    assert asked.headers["User-Agent"] == "cytoloc/0.1.0 (me@example.org)"


@pytest.mark.parametrize(
    "fault", ["503", "429", "cut", "not gzip", "says more", "says less", "html", "short", "empty", "png", "no length"]
)
def test_a_transient_fault_is_retried_and_reported(image: AtlasSite, tmp_path: Path, fault: Fault) -> None:
    image.faults[PATH] = [fault, "503", "cut"]
    result = Result(image, tmp_path / "v18")
    assert result.path.read_bytes() == BODY
    if fault != "no length":  # which is none
        assert len(image.requests(PATH)) == 4
        assert [line.rpartition("; ")[2] for line in result.reported] == [
            f"retrying, attempt {number} of 4." for number in (2, 3, 4)
        ]
        assert result.reported[1].startswith(f"{image.base}{PATH}: the site answers 503")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("503", "answers 503"),
        ("cut", "without sending complete message body"),
        ("stall", "the site sent no data within the time limit"),
    ],
)
def test_a_persistent_fault_is_the_reason(image: AtlasSite, tmp_path: Path, fault: Fault, reason: str) -> None:
    image.files[PATH] = BODY + bytes(1 << 20)
    image.faults[PATH] = [fault] * 9
    assert reason in Result(image, tmp_path / "v18", attempts=3, timeout_s=0.2).reason
    assert len(image.requests(PATH)) == 3


def test_the_same_wrong_bytes_are_not_requested_a_third_time(image: AtlasSite, tmp_path: Path) -> None:
    image.faults[PATH] = ["short", "html", "empty", "short", "short"]
    assert "damaged" in Result(image, tmp_path / "v18", attempts=9).reason
    assert len(image.requests(PATH)) == 4


@pytest.mark.parametrize("fault", ["404", "403"])
def test_a_refusal_is_not_retried(image: AtlasSite, tmp_path: Path, fault: Fault) -> None:
    image.faults[PATH] = [fault, fault]
    assert f"answers {fault}" in Result(image, tmp_path / "v18").reason
    assert len(image.requests(PATH)) == 1
    image.faults[PATH] = [fault]
    with pytest.raises(FetchError, match=f"answers {fault}"):
        Result(image, tmp_path / "strict", strict=True)


def test_retry_after_delays_all_requests(image: AtlasSite, tmp_path: Path) -> None:
    image.faults[PATH] = ["429"]
    image.retry_after = "77"
    assert sum(Result(image, tmp_path / "v18").time.slept) == pytest.approx(77)
    image.faults[PATH] = ["429 long"]
    with pytest.raises(SiteBusyError, match="asks to wait 7200 s"):
        Result(image, tmp_path / "long")


def test_a_site_that_is_not_there_and_bad_addresses(tmp_path: Path) -> None:
    nowhere = AtlasSite(base="http://127.0.0.1:1")
    assert "http://127.0.0.1:1/images" in Result(nowhere, tmp_path / "a", attempts=2).reason
    assert "is not a valid URL" in Result(nowhere, tmp_path / "b", url="http://[::1/x.jpg").reason


def test_requests_are_sent_at_the_rate_and_not_in_a_pause(image: AtlasSite, tmp_path: Path) -> None:
    time, sent = FakeTime(), list[float]()

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(time.now)
        if len(sent) == 5:
            return httpx.Response(429, headers={"Retry-After": "50"})
        return httpx.Response(200, content=BODY)

    options = SiteOptions(
        rate_per_s=4, clock=time.clock, sleep=time.sleep, transport=httpx.MockTransport(answer), jobs=4
    )
    site = Site(image.base, options)
    files = [RemoteFile(f"{number}.jpg", f"{image.base}/{number}.jpg") for number in range(10)]
    with FetchFolder(tmp_path / "v18", base=image.base).opened() as folder:
        site.fetch_files(folder, files, is_body, failed=[])
    gaps = [later - earlier for earlier, later in itertools.pairwise(sent)]
    assert len(sent) == 11
    assert min(gaps) >= 0.25 - 1e-9
    assert max(gaps) >= 49
    assert sent[-1] - sent[0] == pytest.approx(50 + 9 * 0.25, abs=0.6)


def sizes(site: AtlasSite, *, time: FakeTime | None = None, attempts: int = 4) -> list[int | None]:
    time = time or FakeTime()
    options = SiteOptions(attempts=attempts, rate_per_s=1000, clock=time.clock, sleep=time.sleep)
    return Site(site.base, options).sizes_of([site.base + PATH])


def test_sizes_are_requested_without_the_files(image: AtlasSite) -> None:
    time = FakeTime()
    image.retry_after = "77"
    image.faults_of_heads[PATH] = ["429"]
    assert sizes(image, time=time) == [len(BODY)]
    assert max(time.slept) == pytest.approx(77)
    for faults in (["429"] * 9, ["503"]):
        image.faults_of_heads[PATH] = list(faults)  # type: ignore[arg-type]
        assert sizes(image, attempts=3) == [None]
    image.faults_of_heads[PATH] = ["429 long"]
    with pytest.raises(SiteBusyError, match="asks to wait 7200 s"):
        sizes(image)
    assert not image.requests(PATH)


def test_redirects_stay_at_the_host(image: AtlasSite, tmp_path: Path) -> None:
    image.redirects = {"/a.jpg": "/b.jpg", "/b.jpg": image.base + PATH}
    assert Result(image, tmp_path / "a", url=f"{image.base}/a.jpg").received[0].size_bytes == len(BODY)
    elsewhere = AtlasSite(files={PATH: BODY})
    with elsewhere.running() as base:
        # The same machine by another name is another host, also after a redirect that is allowed.
        for leads_to in (base.replace("127.0.0.1", "localhost"), base.replace("http://", "http://me:pw@")):
            image.redirects["/b.jpg"] = leads_to + PATH
            assert "redirects to another host" in Result(image, tmp_path / "b", url=f"{image.base}/a.jpg").reason
            image.redirects[PATH] = leads_to + PATH
            assert sizes(image) == [None]
            del image.redirects[PATH]
    assert elsewhere.asked == []

    def lead_back(request: httpx.Request) -> httpx.Response:
        assert request.url.scheme == "https"
        return httpx.Response(302, headers={"Location": image.base + PATH})

    encrypted = image.base.replace("http:", "https:") + PATH
    with pytest.raises(AddressError, match="redirects from https to http: http://"):
        Result(image, tmp_path / "c", url=encrypted, transport=httpx.MockTransport(lead_back), strict=True)


def test_errors_of_the_check_do_not_name_temporary_files(image: AtlasSite, tmp_path: Path) -> None:
    def refuse(_path: Path, file: RemoteFile) -> None:
        raise FormatError(f"{file.file} is not a gene.")

    assert Result(image, tmp_path / "v18", check=refuse).reason == "a.jpg is not a gene."


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://proteinatlas.org", "proteinatlas.org"),
        ("HTTPS://Images.ProteinAtlas.org:443/1.jpg", "images.proteinatlas.org"),
        ("http://[::1]:8000/x", "::1"),
        ("http://proteinatlas.org:x@127.0.0.1:9/1.jpg", None),
        ("http://proteinatlas.org@127.0.0.1/1.jpg", None),
        ("http://127.0.0.1\\@proteinatlas.org/1.jpg", None),
        ("http://proteinatlas.org\t.example.org/", None),
        ("http://127.0.0.1:99999", None),
        ("http://127.0.0.1:x/", None),
        ("http://[::1", None),
        ("http://", None),
        ("ftp://proteinatlas.org/1.jpg", None),
        ("proteinatlas.org", None),
        ("", None),
    ],
)
def test_the_host_of_an_address(url: str, host: str | None) -> None:
    assert host_of(url) == host


def test_allowed_redirects() -> None:
    assert is_of_the_atlas("proteinatlas.org")
    for host in ("evil-proteinatlas.org", "proteinatlas.org.example.org", "", None):
        assert not is_of_the_atlas(host)
    atlas, mirror = "http://v18.proteinatlas.org/1.jpg", "http://mirror.example.org/1.jpg"
    secure = mirror.replace("http:", "https:")
    for before, after, fault in (
        (atlas, "https://images.proteinatlas.org/1.jpg", ""),
        (mirror, "https://mirror.example.org:8443/2.jpg", ""),
        (secure, "HTTPS://mirror.example.org:8443/1.jpg", ""),
        (secure, mirror, "from https to http"),
        (secure.upper(), mirror, "from https to http"),
        (atlas, mirror, "to another host"),
        (mirror, atlas, "to another host"),
        ("nothing", "nothing", "to another host"),
    ):
        assert redirect_fault(before, after) == fault, (before, after)


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        (" 12 ", 12.0),
        ("Wed, 25 Nov 2026 10:00:30 GMT", 30.0),
        ("Wed, 25 Nov 2026 11:01:00 +0100", 60.0),
        ("Wed, 25 Nov 2026 09:00:00 GMT", 0.0),
        ("-5", None),
        ("1e9", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after(header: str | None, wait_s: float | None) -> None:
    assert retry_after_s(header, now=datetime(2026, 11, 25, 10, 0, 0, tzinfo=UTC)) == wait_s
