"""Decide that a study is complete, and make its input set."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from umit_pacs.handoffs import InputSet
from umit_pacs.settings import AssembleSettings
from umit_pacs.store.database import Catalogue
from umit_pacs.store.files import PayloadFiles

#: (calling AE title, Study Instance UID) -> instances that this peer holds of the study, None when it cannot say.
CountInstances = Callable[[str, str], int | None]


def assemble_due(
    catalogue: Catalogue,
    settings: AssembleSettings,
    *,
    now: datetime,
    count_instances: CountInstances,
    files: PayloadFiles,
) -> tuple[InputSet, ...]:
    """Make the input sets that are due and return those that go on to `route`."""
    raise NotImplementedError
