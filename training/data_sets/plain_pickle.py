"""Pickles that hold nothing but lists, dictionaries, tuples, text and numbers.

A pickle can run any program while it is read. PathVQA's original question files are pickles, so they are read by an
unpickler that knows no class and no function at all: whatever names one is refused before it is looked up.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NoReturn

_LARGEST_BYTES = 256 * 1024**2


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"names {module_name}.{global_name}: more than plain containers")

    def persistent_load(self, pid: object) -> NoReturn:
        raise pickle.UnpicklingError("refers to an object outside the file")


def load_plain(path: Path) -> Any:
    """What the pickle holds. Raises ValueError when that is more than plain containers, or no pickle."""
    if path.stat().st_size > _LARGEST_BYTES:
        raise ValueError(f"{path.name}: larger than {_LARGEST_BYTES // 1024**2} MB")
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file).load()
    except (
        pickle.UnpicklingError,
        EOFError,
        IndexError,
        KeyError,
        AttributeError,
        TypeError,
        OverflowError,
        MemoryError,
    ) as exc:
        raise ValueError(f"{path.name}: {exc}") from exc
