"""The list of all published weights that cytoloc can use."""

from __future__ import annotations

from typing import Any

from cytoloc.adoption.published import PUBLISHED


def published_models() -> list[dict[str, Any]]:
    """Return the published networks that can be adopted.

    Returns:
        For each network, ``name``, ``title``, what it ``gives``, ``megabytes``, ``license``, ``addresses``,
        ``citation``, and the ``command`` that uses it. JSON values.

    Examples:
        >>> [each["license"] for each in published_models() if each["name"] == "densenet121"]
        ['MIT']
    """
    found: list[dict[str, Any]] = []
    for each in PUBLISHED.values():
        variant = " --variant large" if len(each.specs) > 1 else ""
        found.append(
            {
                "name": each.name,
                "title": each.title,
                "gives": each.gives,
                "megabytes": each.megabytes,
                "license": each.license,
                "addresses": [source.address for source in each.sources],
                "citation": each.citation,
                "command": f"cytoloc adopt {each.name} FILE.pth{variant} --out model.cytoloc",
            }
        )
    return found
