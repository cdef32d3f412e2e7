"""Headers of stored files, read once and kept for the next step that asks; for one process."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from pydicom.dataset import Dataset

from umit_pacs.pixels.headers import locate_pixels

#: Reads the header of a stored file, as `headers.read_header` does.
ReadHeader = Callable[[Path], Dataset]

#: Headers in memory; one of a CT slice takes some 50 KiB there.
MAXIMUM_HEADERS = 1024
#: Longer headers (enhanced objects) are read again each time.
MAXIMUM_HEADER_BYTES = 64 * 1024


class RememberedHeaders:
    """The headers that were read last. A stored file never changes, so what was read stays true.

    They are shared by all who ask: nobody may change them. What cannot be read is tried again each time.
    """

    def __init__(self, maximum: int = MAXIMUM_HEADERS) -> None:
        self._maximum = maximum
        self._lock = threading.Lock()
        self._headers: OrderedDict[Path, Dataset] = OrderedDict()

    def __len__(self) -> int:
        return len(self._headers)

    def read(self, path: Path) -> Dataset:
        """The header of the file at `path`. Raises as `read_header`."""
        with self._lock:
            if (known := self._headers.get(path)) is not None:
                self._headers.move_to_end(path)
                return known
        header, pixels_at = locate_pixels(path)
        if pixels_at <= MAXIMUM_HEADER_BYTES:
            with self._lock:
                self._headers[path] = header
                while len(self._headers) > self._maximum:
                    self._headers.popitem(last=False)
        return header
