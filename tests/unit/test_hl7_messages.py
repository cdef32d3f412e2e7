"""HL7 messages taken apart, final reports found in them, and MLLP's answers, as an independent client sees them."""

import socket
import ssl
import subprocess

import pytest

from umit_pacs.errors import CatalogueBusy
from umit_pacs.hl7_network.listener import answer_to, listening
from umit_pacs.hl7_network.messages import MessageRefused, final_report, parse
from umit_pacs.settings import HL7Settings

HEADER = "MSH|^~\\&|RIS|HOSPITAL|UMIT|AI|20260302101500||ORU^R01^ORU_R01|MSG-7|P|2.5.1||||||UNICODE UTF-8"
#: OBR-18 the accession number, OBR-25 the status.
ORDER = "|".join(["OBR", "1", "PLACER", "FILLER", "36643-5^Chest^LN", *[""] * 13, "ACC-0001", *[""] * 6, "F"])
TEXT = "OBX|1|TX|18782-3^Report^LN||There is a nodule in the right lung.\\.br\\No effusion \\T\\ no fracture.||||||F"
UID = "OBX|2|ST|110180^Study Instance UID^DCM||1.2.840.1||||||F"


def message(*segments, encoding="utf-8"):
    return ("\r".join(segments) + "\r").encode(encoding)


def test_a_final_report_is_found():
    report = final_report(parse(message(HEADER, "PID|1||X", ORDER, TEXT, UID)))
    assert report.text == "There is a nodule in the right lung.\nNo effusion & no fracture."
    assert report.study_instance_uid == "1.2.840.1"
    assert report.accession_numbers[0] == "ACC-0001"
    assert report.control_id == "MSG-7"


def test_the_study_may_stand_in_a_zds_segment_and_the_text_in_another_character_set():
    header = HEADER.replace("UNICODE UTF-8", "GB 18030-2000")
    content = message(
        header, ORDER, TEXT.replace("There is", "左肺结节"), "ZDS|1.2.3.4^RIS^Application^DICOM", encoding="gb18030"
    )
    report = final_report(parse(content))
    assert report.study_instance_uid == "1.2.3.4"
    assert report.text.startswith("左肺结节")


@pytest.mark.parametrize(
    ("content", "reason", "code"),
    [
        (b"PID|1\r", "no_header", "AR"),
        (b"MSH|^^^^|x\r", "no_header", "AR"),
        (message(HEADER.replace("ORU^R01^ORU_R01", "ADT^A01"), ORDER, TEXT), "message_type", "AR"),
        (message(HEADER.replace("MSG-7", ""), ORDER, TEXT), "no_control_id", "AE"),
        (message(HEADER, TEXT), "segment_missing", "AE"),
        (message(HEADER, ORDER), "segment_missing", "AE"),
        (message(HEADER, ORDER[:-1] + "P", TEXT[:-1] + "P"), "not_final", "AE"),
        (message(HEADER, ORDER, UID), "no_text", "AE"),
        (message(HEADER, ORDER, TEXT.replace("nodule", "Knötchen"), encoding="latin-1"), "character_set", "AE"),
    ],
)
def test_what_is_wrong_is_named_and_answered(content, reason, code):
    with pytest.raises(MessageRefused) as refused:
        final_report(parse(content))
    assert (refused.value.reason, refused.value.code) == (reason, code)
    answer = answer_to(content, lambda _: pytest.fail("it is not taken"))
    assert f"MSA|{code}|".encode() in answer
    assert b"ERR|" in answer


def test_what_cannot_be_recorded_now_is_answered_as_an_error():
    def take(_):
        raise CatalogueBusy

    assert b"MSA|AE|MSG-7" in answer_to(message(HEADER, ORDER, TEXT), take)


def frame(content):
    return b"\x0b" + content + b"\x1c\r"


def read_frame(connection):
    content = b""
    while not content.endswith(b"\x1c\r"):
        piece = connection.recv(4096)
        assert piece, "the connection was closed"
        content += piece
    return content


def settings(**more):
    return HL7Settings(**more)


def test_several_messages_of_one_connection_are_answered_in_their_order():
    taken = []
    with listening(settings(), taken.append) as port, socket.create_connection(("127.0.0.1", port), 10) as client:
        whole = frame(message(HEADER, ORDER, TEXT)) + frame(message(HEADER, TEXT))
        client.sendall(whole[:40])
        client.sendall(whole[40:])
        assert b"MSA|AA|MSG-7" in read_frame(client)
        client.sendall(frame(b"nonsense"))
        assert b"MSA|A" in read_frame(client)
    assert len(taken) == 1


def test_a_message_without_an_end_is_cut_off():
    with listening(settings(maximum_message_bytes=1024), print) as port:
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            client.sendall(b"\x0b" + b"x" * 200_000)
            assert b"MSA|AE|" in read_frame(client)
            assert client.recv(1) == b""


def test_a_caller_speaks_tls(tmp_path):
    certificate, key = tmp_path / "node.crt", tmp_path / "node.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.create_default_context(cafile=str(certificate))
    taken = []
    with listening(settings(certificate_file=certificate, key_file=key), taken.append) as port:
        with (
            socket.create_connection(("127.0.0.1", port), 10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as client,
        ):
            client.sendall(frame(message(HEADER, ORDER, TEXT)))
            assert b"MSA|AA|MSG-7" in read_frame(client)
    assert len(taken) == 1
