"""The table of searches for earlier studies."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from umit_pacs.prior_studies import PriorState
from umit_pacs.store.tables import UID, InputSetId, Name, Table, Time, Words, word


class PriorRow(Table):
    """What became of the search for the earlier study that an input set is compared with."""

    __tablename__ = "priors"

    input_set_id: Mapped[InputSetId] = mapped_column(ForeignKey("input_sets.input_set_id"), primary_key=True)
    state: Mapped[PriorState] = mapped_column(word(PriorState, "state"), index=True)
    study_instance_uid: Mapped[UID] = mapped_column(
        index=True, comment="of the study that is fetched; empty before one is chosen"
    )
    study_date: Mapped[Name] = mapped_column(comment="of that study, YYYY-MM-DD; empty before one is chosen")
    peer: Mapped[Name] = mapped_column(comment="name of the peer that has it; the peer itself may be gone")
    reason: Mapped[Name] = mapped_column(comment="why nothing is compared; empty while something may be")
    detail: Mapped[Words] = mapped_column(comment="the same for people; no patient data")
    study: Mapped[Words] = mapped_column(comment="prior_studies.PriorStudy as JSON; empty before it is here")
    reading: Mapped[Words] = mapped_column(comment="prior_studies.PriorReading as JSON; empty before it is read")
    wanted_at: Mapped[Time]
    until: Mapped[Time] = mapped_column(comment="nothing waits for it longer than this")
    changed_at: Mapped[Time]
