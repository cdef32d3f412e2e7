"""Every error the node raises on purpose.

UmitPacsError
├── RetryLater            the same input may work later
│   ├── PeerUnavailable
│   ├── PeerRefused
│   ├── ModelBusy
│   ├── CatalogueBusy
│   ├── CatalogueUnavailable
│   └── LeaseLost
├── StudyUnusable         this study never will
│   ├── InconsistentStudy
│   ├── NoUsableFrames
│   ├── PixelBudgetExceeded
│   ├── UndecodablePixels
│   ├── ResultInvalid
│   └── WritingUnread
└── OperatorMustAct       nothing works until someone acts
    ├── InvalidConfiguration
    ├── StoreFull
    ├── CatalogueDamaged
    ├── StoreFailed
    ├── CheckpointInvalid
    ├── SampleInvalid
    └── OutOfAcceleratorMemory

The docstring of a class is its default message. `reason` is a stable word for the catalogue, the metrics and the
tests; `detail` is for people and never holds patient data.
"""

from __future__ import annotations

import inspect
import re


class UmitPacsError(Exception):
    """Something in UMIT PACS went wrong."""

    def __init__(self, detail: str = "", *, reason: str | None = None) -> None:
        self.detail = detail or inspect.cleandoc(type(self).__doc__ or "")
        self.reason = reason or re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()
        super().__init__(self.detail)


class RetryLater(UmitPacsError):
    """The same input may work later."""


class PeerUnavailable(RetryLater):
    """The peer does not answer."""


class PeerRefused(RetryLater):
    """The peer answered that it cannot take this now."""


class ModelBusy(RetryLater):
    """The model did not answer within its time limit."""


class CatalogueBusy(RetryLater):
    """Another process kept the catalogue locked for too long."""


class CatalogueUnavailable(RetryLater):
    """The catalogue's server, which store.catalogue_url names, does not answer."""


class LeaseLost(RetryLater):
    """Another worker holds this input set, or this worker was silent for too long."""


class StudyUnusable(UmitPacsError):
    """This study cannot be analysed."""


class InconsistentStudy(StudyUnusable):
    """The instances contradict one another, so it is not certain whom they show."""


class NoUsableFrames(StudyUnusable):
    """No frame of the study can be used for the task."""


class PixelBudgetExceeded(StudyUnusable):
    """The header announces more pixels than the budget allows."""


class UndecodablePixels(StudyUnusable):
    """The pixel data cannot be decoded."""


class ResultInvalid(StudyUnusable):
    """A composed object failed its own check and may not leave."""


class WritingUnread(StudyUnusable):
    """An image could not be searched for writing."""


class OperatorMustAct(UmitPacsError):
    """Nothing works until someone acts."""


class InvalidConfiguration(OperatorMustAct):
    """The configuration is wrong."""


class StoreFull(OperatorMustAct):
    """The store is full or over its watermark."""


class StoreFailed(OperatorMustAct):
    """The store cannot be written, or a flush failed and nothing can be vouched for until the process is restarted."""


class CatalogueDamaged(OperatorMustAct):
    """The catalogue's file cannot be read or written."""


class CheckpointInvalid(OperatorMustAct):
    """The checkpoint is missing, incomplete or changed."""


class SampleInvalid(OperatorMustAct):
    """A file of samples holds what is no sample, or one that the node would ask or read otherwise."""


class OutOfAcceleratorMemory(OperatorMustAct):
    """The accelerator's memory does not hold the model and one image."""
