"""`umit-pacs conformance`: the DICOM Conformance Statement, made from the code that it speaks of."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Annotated, Any

import typer

from umit_pacs import __version__
from umit_pacs.cli.options import ConfigOption, JSONOption, print_json, settings_from
from umit_pacs.handoffs import ObjectKind
from umit_pacs.settings import Settings

_MEANINGS = {
    "SUCCESS": "The instance is durable: its file is flushed and its place in the catalogue is certain. The same bytes "
    "again are a success without a second effect.",
    "OUT_OF_RESOURCES": "The store is full, over its watermark, or shut after a failed flush. The same may work later.",
    "DATA_SET_MISMATCH": "SOP class or UIDs of the data set are not those of the command, or are not UIDs (PS3.5 9.1).",
    "CANNOT_UNDERSTAND": "The data set cannot be parsed.",
    "PROCESSING_FAILURE": "Something failed here; the same may work later.",
    "NO_SUCH_INSTANCE": "A storage commitment report about something that was not asked.",
    "SOP_CLASS_NOT_SUPPORTED": "The SOP class was not negotiated for this, or is no storage class.",
    "NOT_AUTHORISED": "The peer may not send, or the earlier study that it sends was not asked for.",
    "ANOTHER_DATA_SET_IS_HELD": "Other bytes came first under this UID and stay; what came now is kept aside.",
}
#: what each kind of result holds; the SOP classes and numbers come from the code.
_CONTENTS = {
    ObjectKind.TEXT_REPORT: "Draft report after TID 2000: technique, comparison, findings, impression, what was not "
    "assessed, AI identity.",
    ObjectKind.MEASUREMENT_REPORT: "Boxes and points after TID 1500, with tracking UIDs and algorithm identification; "
    "absent without a region.",
    ObjectKind.SECONDARY_CAPTURE: "RGB pages with the text and the key images, regions drawn, banner in the pixels.",
    ObjectKind.BASIC_TEXT_REPORT: "The draft report after TID 2000 again.",
    ObjectKind.QUALITATIVE_REPORT: "Coded answers without a region after TID 1500; absent without one.",
    ObjectKind.SEGMENTATION: "Binary segments, one for each outlined box in a volume; absent without one.",
    ObjectKind.PRESENTATION_STATE: "Marks over one key frame each, banner among them; absent without a region.",
    ObjectKind.KEY_OBJECTS: "Key images after TID 2010, Of Interest.",
    ObjectKind.DOCUMENT: "The draft with its key images as PDF/A-2b, banner on every page.",
    ObjectKind.REJECTION_NOTE: "Takes results back after TID 2010 (IHE IOCM), for peers set to obey it.",
    ObjectKind.NOTICE: "Says in words that results do not stand any more, for all other peers.",
}
#: what follows when a peer answers C-STORE so, by the name of the outcome.
_FOLLOWS = {
    "stored": "held by the peer; to be confirmed",
    "later": "sent again after a growing pause",
    "refused": "dead letter, listed and sent again by hand",
}
_STATUSES_OF_PEERS = (0x0000, 0x0110, 0x0111, 0x0117, 0x0122, 0x0124, 0x0210, 0x0211, 0xA700, 0xA900, 0xB000, 0xC000)
_PLAIN_FACTS = ("product", "implementation_class_uid", "implementation_version_name")


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Administer")(conformance)


def conformance(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file; default: standard output.")] = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Print the DICOM Conformance Statement in Markdown, made from the code and this node's settings."""
    settings = settings_from(config)
    if as_json:
        print_json(conformance_facts())
        return
    text = conformance_statement(settings)
    if output is None:
        sys.stdout.write(text)
    else:
        output.write_text(text, encoding="utf-8")


def conformance_facts() -> dict[str, Any]:
    """SOP classes, transfer syntaxes and statuses, as the code has them."""
    from pydicom.uid import UID

    from umit_pacs.dicom_network.negotiation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
    from umit_pacs.dicom_network.statuses import Status
    from umit_pacs.dicom_network.supported_classes import STORAGE_TRANSFER_SYNTAXES, known_storage_classes

    return {
        "product": f"UMIT PACS {__version__}",
        "implementation_class_uid": IMPLEMENTATION_CLASS_UID,
        "implementation_version_name": IMPLEMENTATION_VERSION_NAME,
        "storage_classes": known_storage_classes(),
        "storage_transfer_syntaxes": {uid: UID(uid).name for uid in sorted(STORAGE_TRANSFER_SYNTAXES)},
        "statuses": {f"{status:04X}": _MEANINGS[status.name] for status in Status},
    }


def conformance_statement(settings: Settings) -> str:
    """The statement in Markdown: the template beside this module, filled in."""
    template = resources.files("umit_pacs.cli").joinpath("conformance_template.md").read_text(encoding="utf-8")
    facts = conformance_facts()
    words = _words_of_the_settings(settings) | _words_of_the_network() | _tables(settings, facts)
    return Template(template).substitute(words, **{key: facts[key] for key in _PLAIN_FACTS})


def _words_of_the_settings(settings: Settings) -> dict[str, str]:
    return {
        "ae_title": settings.listener.ae_title,
        "prior_ae_title": settings.priors.ae_title,
        "prior_time_limit_s": f"{settings.priors.time_limit_s:g}",
        "prior_maximum_mib": f"{settings.priors.maximum_bytes / 1024**2:g}",
        "ask_expected_count": "yes" if settings.assemble.ask_expected_count else "no",
        "quiet_period_s": f"{settings.assemble.quiet_period_s:g}",
        "maximum_wait_s": f"{settings.assemble.maximum_wait_s:g}",
        "give_up_after_days": f"{settings.deliver.give_up_after_s / 86400:g}",
        "minimum_free_gib": f"{settings.store.minimum_free_bytes / 1024**3:g}",
        "uid_root": settings.compose.uid_root,
    }


def _words_of_the_network() -> dict[str, str]:
    from pydicom.uid import UID

    from umit_pacs.dicom_network.negotiation import APPLICATION_CONTEXT
    from umit_pacs.dicom_network.supported_classes import STORAGE_COMMITMENT_PUSH, VERIFICATION, transfer_syntaxes_of
    from umit_pacs.result_objects.provenance import MANUFACTURER, TRANSFER_SYNTAX_UID

    return {
        "application_context": APPLICATION_CONTEXT,
        "verification": VERIFICATION,
        "commitment": STORAGE_COMMITMENT_PUSH,
        "plain_syntaxes": ", ".join(sorted(UID(uid).name for uid in transfer_syntaxes_of(VERIFICATION))),
        "result_syntax": UID(TRANSFER_SYNTAX_UID).name,
        "manufacturer": MANUFACTURER,
    }


def _tables(settings: Settings, facts: dict[str, Any]) -> dict[str, str]:
    from umit_pacs.dicom_network.pdus import Rejection
    from umit_pacs.dicom_network.statuses import outcome_of
    from umit_pacs.result_objects.check_kinds import RULES
    from umit_pacs.result_objects.provenance import SERIES_NUMBERS

    listener = settings.listener
    described = {name: field.description or "" for name, field in type(listener).model_fields.items()}
    return {
        "storage_syntaxes": _table(
            ("Transfer syntax for storage", "UID"),
            ((name, uid) for uid, name in facts["storage_transfer_syntaxes"].items()),
        ),
        "storage_classes": _table(
            ("SOP class", "UID"), ((name, uid) for uid, name in facts["storage_classes"].items())
        ),
        "results": _table(
            ("Result", "SOP class", "Series number", "Content"),
            (
                (kind, rules.sop_class_uid.name, str(SERIES_NUMBERS[kind]), _CONTENTS[kind])
                for kind, rules in RULES.items()
            ),
        ),
        "statuses": _table(("Status", "Meaning"), facts["statuses"].items()),
        "outcomes": _table(
            ("Status", "What follows"), ((f"{code:04X}", _FOLLOWS[outcome_of(code)]) for code in _STATUSES_OF_PEERS)
        ),
        "listener_settings": _table(
            ("Setting", "Value", "Meaning"),
            ((name, str(getattr(listener, name)), text) for name, text in described.items()),
        ),
        "rejections": _table(
            ("Association rejected because", "Result / source / reason (PS3.8 9.3.4)"),
            ((item.name.lower().replace("_", " "), " / ".join(map(str, item.value))) for item in Rejection),
        ),
    }


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
