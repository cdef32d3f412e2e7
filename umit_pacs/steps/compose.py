"""Step 6: findings become DICOM objects that say what they are, checked before they may leave."""

from __future__ import annotations

from umit_pacs.handoffs import Findings, InputSet, ResultObject, RoutingDecision
from umit_pacs.result_objects.draft import Draft
from umit_pacs.settings import ComposeSettings
from umit_pacs.store.files import PayloadFiles


def compose(
    input_set: InputSet,
    decision: RoutingDecision,
    findings: Findings,
    predecessor: tuple[ResultObject, ...],
    files: PayloadFiles,
    settings: ComposeSettings,
) -> tuple[ResultObject, ...]:
    """Write the objects of the decision's profile; the same arguments give the same bytes."""
    raise NotImplementedError


def draft_of(
    input_set: InputSet,
    decision: RoutingDecision,
    findings: Findings,
    files: PayloadFiles,
    settings: ComposeSettings,
) -> Draft:
    """The draft that the objects tell, without writing any."""
    raise NotImplementedError
