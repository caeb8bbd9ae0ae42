"""Addresses of files, and whose they are: a file may only come from the host that was asked for, or the Atlas's."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

DATASET: Final = "proteinatlas.org"

# What readers of addresses understand differently, and what some of them take out, is in none of ours.
_PLAIN: Final = re.compile(r"[!-\[\]-~]+")


def host_of(url: str) -> str | None:
    """Return the host in an address of http or https, in lower case; None if it is not one, or names a user too.

    Examples:
        >>> host_of("http://V18.proteinatlas.org:80/images/1.jpg")
        'v18.proteinatlas.org'
        >>> host_of("http://proteinatlas.org:x@127.0.0.1:9/")
        >>> host_of("http://127.0.0.1:99999/")
    """
    try:
        parts = urlsplit(url)
        # Reading the port raises if it is none.
        plain = _PLAIN.fullmatch(url) and parts.port != 0
    except ValueError:
        return None
    if not plain or parts.scheme.lower() not in ("http", "https") or "@" in parts.netloc:
        return None
    return parts.hostname or None


def is_of_the_atlas(host: str | None) -> bool:
    """Return whether a host is the Human Protein Atlas's."""
    return host is not None and (host == DATASET or host.endswith(f".{DATASET}"))


def may_lead_to(asked: str, url: str) -> bool:
    """Return whether the address that was asked for may redirect to ``url``.

    It may at the same host, whatever the port, and within the Atlas; but never from https to http.
    """
    before, after = host_of(asked), host_of(url)
    same = before == after or (is_of_the_atlas(before) and is_of_the_atlas(after))
    return after is not None and same and not gives_up_encryption(asked, url)


def gives_up_encryption(asked: str, url: str) -> bool:
    """Return whether an address of https leads to one that is not.

    Examples:
        >>> gives_up_encryption("https://v18.proteinatlas.org/1.jpg", "http://v18.proteinatlas.org/1.jpg")
        True
        >>> gives_up_encryption("http://v18.proteinatlas.org/1.jpg", "http://v18.proteinatlas.org/2.jpg")
        False
    """
    return asked[:6].lower() == "https:" != url[:6].lower()
