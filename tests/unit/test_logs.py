"""The log carries what happened and nothing about a patient."""

import io
import json
import logging
import warnings

import pydicom
import pytest
from highdicom.base import SOPClass
from pydicom.uid import generate_uid

from umit_pacs.errors import PeerUnavailable
from umit_pacs.logs import SILENCED_LOGGERS, configure_logging, may_be_written

CANARY = "CANARY4711"


@pytest.fixture
def start_log(monkeypatch):
    """Sets up logging into a buffer; gives back a function that returns its lines. Everything is put back after."""
    loggers = [logging.getLogger(name) for name in ("", "dbos", *SILENCED_LOGGERS)]
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    stream = io.StringIO()

    def start(log_format, level="debug"):
        configure_logging(log_format, level, "test", stream)
        return lambda: stream.getvalue().splitlines()

    yield start
    for logger, handlers, level, propagate in before:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.mark.parametrize("log_format", ["json", "columns"])
def test_no_canary_reaches_a_line(start_log, log_format):
    lines = start_log(log_format)
    logger = logging.getLogger("umit_pacs.somewhere")
    logger.info(
        "study_assembled",
        extra={
            "input_set": "ab12",
            "patient_name": CANARY,
            "PatientID": CANARY,
            "study_instance_uid": CANARY,
            "report_text": CANARY,
            "names": [CANARY],
            "something": {"nested": CANARY},
        },
    )
    try:
        raise ValueError(CANARY)
    except ValueError:
        logger.exception("step_failed")
    logging.getLogger("pynetdicom.acse").error(CANARY)
    child = logging.getLogger("pynetdicom.dimse")
    child.setLevel(logging.DEBUG)
    child.debug(CANARY)
    with warnings.catch_warnings(record=False):
        warnings.simplefilter("always")
        warnings.warn(CANARY, stacklevel=1)
    text = "\n".join(lines())
    assert "study_assembled" in text
    assert "ab12" in text
    assert "patient_name" in text  # it says what it left out
    assert "ValueError" in text
    assert "library_warned" in text
    assert CANARY not in text


def test_highdicom_quotes_no_malformed_name(start_log):
    lines = start_log("json")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        SOPClass(
            study_instance_uid=generate_uid(),
            series_instance_uid=generate_uid(),
            series_number=1,
            sop_instance_uid=generate_uid(),
            sop_class_uid="1.2.840.10008.5.1.4.1.1.7",
            instance_number=1,
            modality="OT",
            patient_name=CANARY,
        )
    assert CANARY not in "\n".join(lines())
    assert "library_warned" in lines()[0]


def test_our_own_errors_keep_their_detail(start_log):
    lines = start_log("json")
    try:
        try:
            raise KeyError(CANARY)
        except KeyError as exc:
            raise PeerUnavailable("PACS refused the connection") from exc
    except PeerUnavailable:
        logging.getLogger("umit_pacs.x").exception("peer_away")
    (line,) = lines()
    record = json.loads(line)
    assert record["event"] == "peer_away"
    assert "PeerUnavailable: PACS refused the connection" in record["exception"]
    assert "KeyError" in record["exception"]
    assert CANARY not in line


def test_a_line_break_in_a_value_forges_no_line(start_log):
    lines = start_log("columns")
    logging.getLogger("umit_pacs.x").info("peer_refused", extra={"ae_title": "A\n2026 error forged\x1b[31m"})
    assert len(lines()) == 1
    assert "\x1b" not in lines()[0]


def test_levels_are_kept(start_log):
    lines = start_log("json", "warning")
    logging.getLogger("umit_pacs.x").info("quiet")
    assert lines() == []


@pytest.mark.parametrize("keyword", ["PatientName", "patient_birth_date", "AccessionNumber", "sop_instance_uid", "id"])
def test_fields_named_after_a_patient_are_left_out(keyword):
    assert not may_be_written(keyword)


@pytest.mark.parametrize("field", ["input_set", "instances", "peer", "worker", "waited_s", "rule_name", "status"])
def test_plain_fields_are_written(field):
    assert may_be_written(field)


def test_pydicom_is_silenced_although_its_level_is_set_elsewhere(start_log):
    lines = start_log("json")
    pydicom.config.debug(False)
    logging.getLogger("pydicom").warning(CANARY)
    assert lines() == []
