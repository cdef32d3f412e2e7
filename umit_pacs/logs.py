"""How the node writes its log: one event per line, fields beside it, nothing about a patient.

A line is written by `logger.info("study_assembled", extra={"input_set": input_set_id, "instances": 212})`: the message
is a constant, what varies is a field. Fields whose name says that they could hold patient data are left out whatever
they hold, exceptions of other libraries are written without their message (it may quote a value of the data set), and
libraries that log identifiers are silenced by name.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
import warnings
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, TextIO

from umit_pacs.errors import UmitPacsError

LogFormat = Literal["json", "columns"]

#: a field is left out when one of these words is part of its name (`patient_name` -> patient, name).
PATIENT_WORDS = frozenset({
    "patient", "patients", "person", "physician", "birth", "birthdate", "accession", "address", "uid", "uids",
    "description", "comment", "comments", "text", "report", "answer", "question", "instruction", "dataset", "header",
    "element", "identifier", "pixels", "institution",
})  # fmt: skip
#: these alone; `rule_name` and `worker_id` are no patient's.
PATIENT_FIELDS = frozenset({"names", "id", "ids", "value", "values", "findings"})
#: these write identifiers, data sets or names (highdicom quotes a malformed patient name).
SILENCED_LOGGERS = ("pynetdicom", "pydicom", "highdicom", "PIL")
#: these say much and nothing that a reader of the node's log needs.
QUIET_LOGGERS = ("dbos", "alembic", "sqlalchemy", "transformers", "urllib3")

LONGEST_VALUE = 300
_STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
#: what DBOS adds to each of its records.
_DBOS_ATTRIBUTES = frozenset({"applicationID", "applicationVersion", "executorID", "operationUUID"})


def configure_logging(log_format: LogFormat, log_level: str, process: str, stream: TextIO | None = None) -> None:
    """Write every log line of this process in one format to `stream` (standard error)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JSONFormatter(process) if log_format == "json" else ColumnsFormatter(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(log_level.upper())
    for name in SILENCED_LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.CRITICAL + 1)
        logger.handlers[:] = [logging.NullHandler()]
        logger.propagate = False  # a child with a level of its own would get through otherwise
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    # It warns of every round of the clock that was skipped because the one before was still busy.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    # DBOS writes to a handler of its own unless it finds one.
    dbos_logger = logging.getLogger("dbos")
    dbos_logger.handlers[:] = [handler]
    dbos_logger.propagate = False
    warnings.showwarning = _log_warning


def allowed_fields(record: logging.LogRecord) -> dict[str, Any]:
    """The fields of `record` that may be written; names of those left out stand under `left_out`."""
    fields: dict[str, Any] = {}
    left_out = []
    for name, value in vars(record).items():
        if name in _STANDARD_ATTRIBUTES or name in _DBOS_ATTRIBUTES:
            continue
        if may_be_written(name):
            fields[name] = _plain(value)
        else:
            left_out.append(name)
    if left_out:
        fields["left_out"] = " ".join(sorted(left_out))
    return fields


def may_be_written(field_name: str) -> bool:
    """Whether nothing in the field's name says that it could hold patient data."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", field_name).lower().split("_")
    return field_name.lower() not in PATIENT_FIELDS and not PATIENT_WORDS.intersection(words)


def exception_lines(exc: BaseException) -> list[str]:
    """Where `exc` and what caused it were raised; the message only of the node's own errors."""
    lines: list[str] = []
    seen: BaseException | None = exc
    while seen is not None:
        frames = traceback.extract_tb(seen.__traceback__)
        lines.extend(f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in frames)
        lines.append(f"{type(seen).__name__}: {seen}" if isinstance(seen, UmitPacsError) else type(seen).__name__)
        cause = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
        if cause is not None:
            lines.append("caused by")
        seen = cause
    return lines


class _EventFormatter(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def _time(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def _exception(self, record: logging.LogRecord) -> list[str]:
        exc = record.exc_info[1] if record.exc_info else None
        return exception_lines(exc) if exc is not None else []


class JSONFormatter(_EventFormatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self._time(record),
            "level": record.levelname.lower(),
            "process": self._process,
            "event": record.getMessage(),
            "logger": record.name,
            **allowed_fields(record),
        }
        if lines := self._exception(record):
            line["exception"] = lines
        return json.dumps(line, ensure_ascii=False, default=str)


class ColumnsFormatter(_EventFormatter):
    """Time, level, process, event, then the fields; a traceback indented below."""

    def format(self, record: logging.LogRecord) -> str:
        fields = "  ".join(f"{name}={_printable(value)}" for name, value in allowed_fields(record).items())
        event = _printable(record.getMessage())
        line = f"{self._time(record)}  {record.levelname.lower():<8}{self._process:<10}{event:<28}{fields}".rstrip()
        return "\n    ".join([line, *self._exception(record)])


def _plain(value: Any) -> Any:
    """A number, a truth value or a short text; of anything else only what it is."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str | Path):
        text = str(value)
        return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "…"
    return f"<{type(value).__name__}>"


def _printable(value: Any) -> str:
    """`value` on one line: a line break or an escape sequence from outside must not forge a log line."""
    return "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in str(value))


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: IO[str] | None = None,
    line: str | None = None,
) -> None:
    """Log that a library warned and where: the text may quote a value of the data set."""
    logging.getLogger(__name__).debug(
        "library_warned", extra={"category": category.__name__, "place": f"{Path(filename).name}:{lineno}"}
    )


def log_uncaught(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
    """`sys.excepthook` of the node's processes: the traceback as a log line, not on the console as it is."""
    logging.getLogger(__name__).critical("process_failed", exc_info=(kind, exc, trace))
