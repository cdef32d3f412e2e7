"""Records of `handoffs` as JSON and back."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")

_adapters: dict[type[Any], TypeAdapter[Any]] = {}


def to_json(record: object) -> str:
    """The record as JSON; the same record always gives the same text."""
    return _adapter(type(record)).dump_json(record).decode()


def from_json(kind: type[T], text: str) -> T:
    """The record of type `kind` that `to_json` wrote; fields that are gone since are passed over."""
    record: T = _adapter(kind).validate_json(text)
    return record


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    """Built once per type: building costs more than using."""
    adapter = _adapters.get(kind)
    if adapter is None:
        adapter = _adapters[kind] = TypeAdapter(kind)
    return adapter
