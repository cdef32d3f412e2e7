"""UMIT PACS: a DICOM node that reads studies with UMIT and returns unverified AI drafts."""

__version__ = "0.1.0"
