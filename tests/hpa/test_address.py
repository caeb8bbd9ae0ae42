from __future__ import annotations

import pytest

from cytoloc.hpa.address import host_of, is_of_the_atlas, may_lead_to


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


def test_whose_a_host_is() -> None:
    assert is_of_the_atlas("proteinatlas.org")
    assert is_of_the_atlas("images.proteinatlas.org")
    for host in ("evil-proteinatlas.org", "proteinatlas.org.example.org", "", None):
        assert not is_of_the_atlas(host)


def test_where_an_address_may_lead_to() -> None:
    dataset, mirror = "http://v18.proteinatlas.org/1.jpg", "http://mirror.example.org/1.jpg"
    assert may_lead_to(dataset, "https://images.proteinatlas.org/1.jpg")
    assert may_lead_to(mirror, "https://mirror.example.org:8443/2.jpg")
    assert may_lead_to("https://mirror.example.org/1.jpg", "HTTPS://mirror.example.org:8443/1.jpg")
    for asked in (dataset, mirror):
        secure = asked.replace("http:", "https:")
        assert may_lead_to(asked, secure)
        # What left encrypted does not come back in the open, not even at the same host.
        assert not may_lead_to(secure, asked)
    assert not may_lead_to("HTTPS://mirror.example.org/1.jpg", mirror)
    assert not may_lead_to(dataset, mirror)
    assert not may_lead_to(mirror, dataset)
    assert not may_lead_to("nothing", "nothing")
