"""Splits of our own where a data set has none: decided by a hash of what may not be divided, so that nothing moves."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Sequence

from umit_pacs.umit_model.samples import Split

_PARTS = 10_000


def hashed_split(group: str, *, validation: float, test: float = 0.0) -> Split:
    """The split of a group (a patient, an article, an image) with about these shares; the same on every machine."""
    part = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8]) % _PARTS
    if part < test * _PARTS:
        return "test"
    return "validation" if part < (test + validation) * _PARTS else "train"


def connected_groups(rows: Iterable[Sequence[Hashable]]) -> dict[Hashable, str]:
    """A group's name for every key; rows that share one key directly or through others have one group.

    Each row gives its keys, e.g. its image and the question that it rephrases; the smallest key as text names a group.
    """
    parents: dict[Hashable, Hashable] = {}

    def root(key: Hashable) -> Hashable:
        parents.setdefault(key, key)
        while parents[key] != key:
            parents[key] = parents[parents[key]]
            key = parents[key]
        return key

    for keys in rows:
        for key in keys:
            parents[root(key)] = root(keys[0])
    names: dict[Hashable, str] = {}
    for key in sorted(parents, key=str):
        names.setdefault(root(key), str(key))
    return {key: names[root(key)] for key in parents}
