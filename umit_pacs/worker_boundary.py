"""What every step of a study's path works with, and the boundary where each of its errors finds its end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dbos import DBOS
from dbos import error as dbos_error

from umit_pacs.durable_work import Stage, WorkStarter
from umit_pacs.errors import LeaseLost, RetryLater, UmitPacsError
from umit_pacs.handoffs import Priority
from umit_pacs.pixels.remembered_headers import RememberedHeaders
from umit_pacs.settings import Settings
from umit_pacs.states import InputSetState
from umit_pacs.store.database import Catalogue
from umit_pacs.store.files import PayloadFiles
from umit_pacs.store.leases import assert_lease, hold_lease, release_lease
from umit_pacs.store.studies import change_state, input_set_state
from umit_pacs.vocabulary import TemplateLibrary

if TYPE_CHECKING:  # the engine's module loads torch, which only a work process needs
    from umit_pacs.umit_model.engine import Engine

log = logging.getLogger(__name__)

#: what is tried again later ends in FAILED after so many attempts in a row (about four minutes with the usual pauses).
MAXIMUM_ATTEMPTS = 8

#: the stage that an input set in this state is waiting for.
STAGE_OF = {
    InputSetState.ASSEMBLED: Stage.ROUTE,
    InputSetState.ROUTED: Stage.ANALYSE,
    InputSetState.ANALYSED: Stage.ANALYSE,
    InputSetState.COMPOSED: Stage.RETURN,
    InputSetState.DELIVERED: Stage.RETURN,
    InputSetState.RETRACTING: Stage.RETURN,
}


@dataclass(kw_only=True)
class Tools:
    """What the steps of one process work with."""

    settings: Settings
    catalogue: Catalogue
    files: PayloadFiles
    starter: WorkStarter
    #: the name that this process holds leases under.
    worker: str
    templates: TemplateLibrary
    #: what assemble and route have read of a study, once for both.
    headers: RememberedHeaders = field(default_factory=RememberedHeaders)
    #: lends the engine of a checkpoint by name, "" for the configured one, to one study; only in a work process.
    engine_for: Callable[[str, Priority], AbstractContextManager[Engine]] | None = None
    #: called when a study is taken in hand and, with what it returns, when it is put down again.
    on_study: Callable[[], Callable[[], None]] = field(default=lambda: lambda: None)
    #: decoding takes memory; pydicom has one strictness in writing, which `compose` raises: one study at a time each.
    preparing: AbstractContextManager[Any] = field(default_factory=threading.Lock)
    composing: AbstractContextManager[Any] = field(default_factory=threading.Lock)
    #: set when this process has to stop: it takes nothing more in hand.
    is_stopping: threading.Event = field(default_factory=threading.Event)

    def assert_may_act(self, input_set_id: str) -> None:
        """Raise LeaseLost when another process has taken the input set over."""
        assert_lease(self.catalogue, self.worker, input_set_id)


class _Equipment:
    """DBOS calls workflows by name with recorded arguments only; this is where they find their process's tools."""

    tools: Tools | None = None


def equip(tools: Tools) -> None:
    """Give this process's workflows their tools; once, before DBOS is launched."""
    _Equipment.tools = tools


def equipped_tools() -> Tools:
    """This process's tools."""
    assert _Equipment.tools is not None, "equip() comes before the first workflow"
    return _Equipment.tools


def take_in_hand(stage: Stage, input_set_id: str, attempt: int, *steps: Callable[[str], None]) -> None:
    """Hold the input set's lease, do the steps in order, and give every error its end."""
    tools = equipped_tools()
    if tools.is_stopping.is_set():
        threading.Event().wait()  # taken from the queue while the process ends; put back by whoever ends it
    put_down = tools.on_study()
    try:
        hold_lease(tools.catalogue, tools.worker, input_set_id)
        for step in steps:
            step(input_set_id)
    except LeaseLost as exc:
        # Somebody else works on it, or will after the sweep; what this process found is not recorded.
        log.warning("lease_lost", extra={"input_set_id": input_set_id, "detail": exc.detail})
    except dbos_error.DBOSWorkflowConflictIDError:
        # The same, noticed by DBOS: the workflow was put back and belongs to another process now.
        log.warning("lease_lost", extra={"input_set_id": input_set_id, "detail": "the workflow was taken over"})
        raise
    except dbos_error.DBOSException:
        raise
    except RetryLater as exc:
        _try_later(tools, stage, input_set_id, attempt + 1, exc)
    except UmitPacsError as exc:
        log.exception("study_failed", extra={"input_set_id": input_set_id, "stage": stage.value})
        _fail(tools, input_set_id, exc.reason, exc.detail)
    except Exception as exc:  # the worker boundary: one study's defect must not stop the others
        log.exception("study_failed", extra={"input_set_id": input_set_id, "stage": stage.value})
        _fail(tools, input_set_id, "defect", f"{type(exc).__name__} at {stage}; the log says where")
    finally:
        put_down()
        release_lease(tools.catalogue, tools.worker, input_set_id)


def _try_later(tools: Tools, stage: Stage, input_set_id: str, attempt: int, exc: RetryLater) -> None:
    if attempt >= MAXIMUM_ATTEMPTS:
        _fail(tools, input_set_id, exc.reason, exc.detail)
        return
    pause_s = tools.settings.deliver.pause_s(attempt)
    log.warning(
        "study_tried_later",
        extra={"input_set_id": input_set_id, "stage": stage.value, "reason": exc.reason, "pause_s": pause_s},
    )
    tools.starter.start(stage, input_set_id, attempt=attempt, delay_s=pause_s, but_this=DBOS.workflow_id)


def _fail(tools: Tools, input_set_id: str, reason: str, detail: str) -> None:
    if input_set_state(tools.catalogue, input_set_id) in STAGE_OF:
        change_state(tools.catalogue, input_set_id, InputSetState.FAILED, reason=reason, detail=detail)
