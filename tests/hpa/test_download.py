from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import stamina

from cytoloc.errors import FetchError, ImageError
from cytoloc.hpa.download import AbsentError, AddressError, Downloader, Received, SiteBusyError
from cytoloc.hpa.pace import Pace
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


def whole(path: Path) -> None:
    """Refuse what is not the file, as the check of an image does."""
    if path.read_bytes() != BODY:
        raise ImageError("what came is damaged.")


def fetch(
    site: AtlasSite,
    part: Path,
    *,
    path: str = PATH,
    address: str = "",
    check: Callable[[Path], None] = whole,
    time: FakeTime | None = None,
    attempts: int = 4,
    timeout_s: float = 5.0,
    said: list[str] | None = None,
) -> Received:
    time = time or FakeTime()
    say = (said if said is not None else []).append

    async def run() -> Received:
        pace = Pace(1000, clock=time.clock, sleep=time.sleep)
        mine = "me@example.org"
        async with Downloader(pace, attempts=attempts, timeout_s=timeout_s, contact=mine, say=say) as downloader:
            return await downloader.fetch(address or site.base + path, part, check)

    with stamina.set_testing(True, attempts=attempts):
        return asyncio.run(run())


@pytest.fixture
def image(site: AtlasSite) -> AtlasSite:
    site.files[PATH] = BODY
    return site


def test_a_file_comes_with_what_is_known_of_it(image: AtlasSite, tmp_path: Path) -> None:
    received = fetch(image, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == BODY
    digest = hashlib.sha256(BODY).hexdigest()
    assert received == (len(BODY), digest, f'"{digest[:12]}"')
    (asked,) = image.requests(PATH)
    assert asked.headers["User-Agent"] == "cytoloc/0.1.0 (me@example.org)"
    assert "Range" not in asked.headers


@pytest.mark.parametrize(
    "fault", ["503", "429", "cut", "not gzip", "says more", "says less", "html", "short", "empty", "png"]
)
def test_what_goes_wrong_once_is_tried_again(image: AtlasSite, tmp_path: Path, fault: Fault) -> None:
    image.faults[PATH] = [fault, "503", "cut"]
    assert fetch(image, tmp_path / "part").size_bytes == len(BODY)
    assert (tmp_path / "part").read_bytes() == BODY
    assert len(image.requests(PATH)) == 4


def test_why_a_file_is_asked_for_again_is_said(image: AtlasSite, tmp_path: Path) -> None:
    image.faults[PATH] = ["503", "short"]
    said: list[str] = []
    fetch(image, tmp_path / "part", said=said)
    assert len(said) == 2
    assert said[0].startswith(f"{image.base}{PATH}: the site answers 503")
    assert said[0].endswith("; asked for again, 2 of 4 times.")
    assert "what came is damaged; asked for again, 3 of 4 times." in said[1]
    image.faults[PATH] = ["503"] * 2
    with pytest.raises(FetchError):
        fetch(image, tmp_path / "other", said=said, attempts=2)
    assert len(said) == 3


def test_why_is_said_without_what_to_do_about_it(image: AtlasSite, tmp_path: Path) -> None:
    def refuse(path: Path) -> None:
        if path.read_bytes() != BODY:
            raise ImageError("what came is a web page.", hint="Look at it.")

    image.faults[PATH] = ["html", "stall"]
    said: list[str] = []
    fetch(image, tmp_path / "part", check=refuse, said=said, timeout_s=0.3)
    assert [line.split(": ", 1)[1] for line in said] == [
        "what came is a web page; asked for again, 2 of 4 times.",
        "nothing came for longer than the time limit; asked for again, 3 of 4 times.",
    ]


def test_a_site_that_says_nothing_is_asked_again(image: AtlasSite, tmp_path: Path) -> None:
    image.faults[PATH] = ["stall"]
    assert fetch(image, tmp_path / "part", timeout_s=0.2).size_bytes == len(BODY)
    assert (tmp_path / "part").read_bytes() == BODY


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("503", "answers 503"),
        ("cut", "without sending complete message body"),
        ("says more", "without sending complete message body"),
        ("stall", "nothing came for longer than the time limit"),
    ],
)
def test_what_stays_wrong_is_said(image: AtlasSite, tmp_path: Path, fault: Fault, reason: str) -> None:
    image.files[PATH] = BODY + bytes(1 << 20)
    image.faults[PATH] = [fault] * 9
    with pytest.raises(FetchError, match=reason):
        fetch(image, tmp_path / "part", attempts=3, timeout_s=0.2)
    assert len(image.requests(PATH)) == 3


def test_what_is_not_the_file_is_refused_and_not_kept(image: AtlasSite, tmp_path: Path) -> None:
    image.faults[PATH] = ["short", "html", "empty", "short", "short"]
    with pytest.raises(ImageError, match="damaged"):
        fetch(image, tmp_path / "part", attempts=9)
    # What came before is not asked for once more.
    assert len(image.requests(PATH)) == 4
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("fault", "error"), [("404", AbsentError), ("403", FetchError)])
def test_a_refusal_is_not_asked_again(image: AtlasSite, tmp_path: Path, fault: Fault, error: type[FetchError]) -> None:
    image.faults[PATH] = [fault, fault]
    with pytest.raises(error, match=f"answers {fault}"):
        fetch(image, tmp_path / "part")
    assert len(image.requests(PATH)) == 1


def test_a_file_is_fetched_from_its_beginning(image: AtlasSite, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"x" * 2 * len(BODY))
    image.faults[PATH] = ["cut"]
    assert fetch(image, tmp_path / "part").sha256 == hashlib.sha256(BODY).hexdigest()
    assert (tmp_path / "part").read_bytes() == BODY
    assert not any("Range" in each.headers for each in image.requests(PATH))


def test_a_length_is_not_needed(image: AtlasSite, tmp_path: Path) -> None:
    image.faults[PATH] = ["no length"]
    assert fetch(image, tmp_path / "part").size_bytes == len(BODY)


def test_retry_after_holds_everything_back(image: AtlasSite, tmp_path: Path) -> None:
    image.faults[PATH] = ["429"]
    image.retry_after = "77"
    time = FakeTime()
    fetch(image, tmp_path / "part", time=time)
    assert sum(time.slept) == pytest.approx(77)


def test_a_site_that_asks_for_hours_is_left_alone(image: AtlasSite, tmp_path: Path) -> None:
    image.faults[PATH] = ["429 long"]
    time = FakeTime()
    with pytest.raises(SiteBusyError, match="asks to wait 7200 s"):
        fetch(image, tmp_path / "part", time=time)
    assert not time.slept


def test_a_site_that_is_not_there(tmp_path: Path) -> None:
    nowhere = AtlasSite(base="http://127.0.0.1:1")
    with pytest.raises(FetchError, match=r"http://127\.0\.0\.1:1/images"):
        fetch(nowhere, tmp_path / "part", attempts=2)
    with pytest.raises(FetchError, match="is not an address"):
        fetch(AtlasSite(base="http://[::1"), tmp_path / "part")


def size(site: AtlasSite, *, time: FakeTime | None = None, attempts: int = 4) -> int | None:
    time = time or FakeTime()

    async def run() -> int | None:
        pace = Pace(1000, clock=time.clock, sleep=time.sleep)
        async with Downloader(pace, attempts=attempts) as downloader:
            return await downloader.size_bytes(site.base + PATH)

    return asyncio.run(run())


def test_asked_for_a_size_the_site_may_ask_to_wait(image: AtlasSite) -> None:
    time = FakeTime()
    image.retry_after = "77"
    image.faults_of_heads[PATH] = ["429"]
    assert size(image, time=time) == len(BODY)
    assert max(time.slept) == pytest.approx(77)
    image.faults_of_heads[PATH] = ["429"] * 9
    assert size(image, attempts=3) is None
    image.faults_of_heads[PATH] = ["503"]
    assert size(image) is None
    image.faults_of_heads[PATH] = ["429 long"]
    with pytest.raises(SiteBusyError, match="asks to wait 7200 s"):
        size(image)


def test_what_was_asked_for_encrypted_does_not_come_in_the_open(
    image: AtlasSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = image.base.replace("http:", "https:") + PATH

    async def lead_back(self: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        if request.url.scheme == "https":
            return httpx.Response(302, headers={"Location": image.base + PATH}, request=request)
        return await handle(self, request)

    handle = httpx.AsyncHTTPTransport.handle_async_request
    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", lead_back)
    with pytest.raises(AddressError, match=r"https://\S* leads from https to http: http://") as caught:
        fetch(image, tmp_path / "part", address=asked)
    assert "--base" in caught.value.hint
    assert image.asked == []


def test_every_hop_of_a_redirect_stays_where_it_was_asked_for(image: AtlasSite, tmp_path: Path) -> None:
    image.redirects = {"/a.jpg": "/b.jpg", "/b.jpg": image.base + PATH}
    assert fetch(image, tmp_path / "part", path="/a.jpg").size_bytes == len(BODY)
    elsewhere = AtlasSite(files={PATH: BODY})
    with elsewhere.running() as base:
        # The same machine by another name is another host, also after a hop that is allowed.
        for leads_to in (base.replace("127.0.0.1", "localhost"), base.replace("http://", "http://me:pw@")):
            image.redirects["/b.jpg"] = leads_to + PATH
            with pytest.raises(AddressError, match="leads to another host"):
                fetch(image, tmp_path / "other", path="/a.jpg")
            image.redirects[PATH] = leads_to + PATH
            assert size(image) is None
            del image.redirects[PATH]
    assert elsewhere.asked == []
    assert not (tmp_path / "other").exists()
