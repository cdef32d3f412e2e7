"""The wire formats agree with pynetdicom's, and the small decisions around them hold."""

from __future__ import annotations

import logging
import struct
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom import AllStoragePresentationContexts, _config, build_context
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import decode, encode
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ, P_DATA_TF
from pynetdicom.pdu_primitives import A_ASSOCIATE, MaximumLengthNotification, SCP_SCU_RoleSelectionNegotiation

from tests.peer_programs import free_port
from umit_pacs.dicom_network import commands, negotiation, pdus
from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress
from umit_pacs.dicom_network.admission import Doorkeeper
from umit_pacs.dicom_network.negotiation import AssociationRequest
from umit_pacs.dicom_network.pdus import ProtocolViolation, Rejection
from umit_pacs.dicom_network.query import echo
from umit_pacs.dicom_network.served_association import supported_contexts
from umit_pacs.dicom_network.statuses import Outcome, Refusal, Status, outcome_of, status_of
from umit_pacs.dicom_network.supported_classes import STORAGE_COMMITMENT_PUSH
from umit_pacs.errors import PeerUnavailable, StoreFailed, StoreFull
from umit_pacs.store.peers import Peer

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"


def request_by_pynetdicom(*contexts, roles: tuple[str, ...] = ()) -> bytes:
    """The body of an A-ASSOCIATE-RQ that pynetdicom encoded."""
    primitive = A_ASSOCIATE()
    primitive.application_context_name = "1.2.840.10008.3.1.1.1"
    primitive.calling_ae_title, primitive.called_ae_title = "MODALITY 1", "UMIT"
    primitive.presentation_context_definition_list = []
    for number, (abstract_syntax, syntaxes) in enumerate(contexts):
        context = build_context(abstract_syntax, syntaxes)
        context.context_id = 2 * number + 1
        primitive.presentation_context_definition_list.append(context)
    length = MaximumLengthNotification()
    length.maximum_length_received = 65536
    primitive.user_information = [length]
    for uid in roles:
        role = SCP_SCU_RoleSelectionNegotiation()
        role.sop_class_uid, role.scu_role, role.scp_role = uid, False, True
        primitive.user_information.append(role)
    return A_ASSOCIATE_RQ(primitive).encode()[6:]


def test_a_request_of_pynetdicom_is_understood() -> None:
    body = request_by_pynetdicom((CT, [EXPLICIT, "1.2.840.10008.1.2"]), (STORAGE_COMMITMENT_PUSH, [EXPLICIT]))
    request = negotiation.read_request(body, peer_host="10.0.0.1")
    assert (request.calling_ae_title, request.called_ae_title) == ("MODALITY 1", "UMIT")
    assert request.pdu[6:] == body
    assert [context.context_id for context in request.contexts] == [1, 3]
    assert request.contexts[0].transfer_syntaxes == (EXPLICIT, "1.2.840.10008.1.2")


def test_every_storage_class_of_pynetdicom_is_accepted() -> None:
    classes = [str(context.abstract_syntax) for context in AllStoragePresentationContexts]
    for start in range(0, len(classes), 128):
        body = request_by_pynetdicom(*((uid, [EXPLICIT]) for uid in classes[start : start + 128]))
        accepted = supported_contexts(negotiation.read_request(body, peer_host="x"))
        assert {context.abstract_syntax for context in accepted} == set(classes[start : start + 128])


def test_our_request_is_understood_by_pynetdicom() -> None:
    ours = negotiation.association_request([(1, CT, [EXPLICIT])], calling_ae_title="A", called_ae_title="B")
    decoded = A_ASSOCIATE_RQ()
    decoded.decode(ours)
    primitive = decoded.to_primitive()
    assert (primitive.calling_ae_title, primitive.called_ae_title) == ("A", "B")
    assert negotiation.read_request(ours[6:], peer_host="x").contexts[0].abstract_syntax == CT


def test_short_pdus_are_those_of_the_standard() -> None:
    rejected = A_ASSOCIATE_RJ()
    rejected.decode(pdus.rejection(Rejection.CALLED_AE_TITLE_NOT_RECOGNISED))
    assert (rejected.result, rejected.source, rejected.reason_diagnostic) == (1, 1, 7)
    aborted = A_ABORT_RQ()
    aborted.decode(pdus.abort(by_provider=True))
    assert aborted.source == 2


@given(st.binary(max_size=300))
def test_no_bytes_make_a_request_fail_otherwise(content: bytes) -> None:
    for body in (content, request_by_pynetdicom((CT, [EXPLICIT]))[:74] + content):
        try:
            negotiation.read_request(body, peer_host="x")
        except ProtocolViolation:
            continue


@given(st.binary(max_size=200))
def test_no_bytes_make_a_command_set_fail_otherwise(content: bytes) -> None:
    try:
        commands.read_request(content)
    except ProtocolViolation:
        return


def test_a_command_set_of_pynetdicom_is_understood() -> None:
    primitive = C_STORE()
    primitive.MessageID, primitive.Priority = 77, 2
    primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = CT, "1.2.3.45"
    primitive.DataSet = BytesIO(b"\0\0")
    message = C_STORE_RQ()
    message.primitive_to_message(primitive)
    request = commands.read_request(encode(message.command_set, True, True))
    assert request == commands.Command(
        field=1, message_id=77, has_data_set=True, affected_sop_class_uid=CT, affected_sop_instance_uid="1.2.3.45"
    )
    response = decode(BytesIO(commands.store_response(request, 0xB000, "other_bytes")), True, True)
    assert response.CommandField == 0x8001
    assert (response.MessageIDBeingRespondedTo, response.CommandDataSetType) == (77, 0x0101)
    assert (response.Status, response.ErrorComment) == (0xB000, "other_bytes")
    assert (response.AffectedSOPClassUID, response.AffectedSOPInstanceUID) == (CT, "1.2.3.45")
    assert response.CommandGroupLength == len(commands.store_response(request, 0xB000, "other_bytes")) - 12


@given(st.binary(min_size=1, max_size=5000), st.integers(64, 4096))
def test_fragments_add_up_to_the_message_and_fit_the_pdu(message: bytes, maximum: int) -> None:
    stream = pdus.p_data(5, message, is_command=False, maximum_pdu_bytes=maximum)
    collected, position, lasts = b"", 0, []
    while position < len(stream):
        pdu_type, length = pdus.HEADER.unpack_from(stream, position)
        assert pdu_type == 4
        assert length <= maximum
        body = memoryview(stream)[position + 6 : position + 6 + length]
        position += 6 + length
        for context_id, is_command, is_last, fragment in pdus.fragments(body):
            assert (context_id, is_command) == (5, False)
            collected += bytes(fragment)
            lasts.append(is_last)
    assert collected == message
    assert lasts == [False] * (len(lasts) - 1) + [True]
    decoded = P_DATA_TF()
    first_length = struct.unpack_from(">L", stream, 2)[0]
    decoded.decode(stream[: 6 + first_length])
    assert len(decoded.presentation_data_value_items) == 1


# --- statuses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (0x0000, Outcome.STORED),
        (0xB000, Outcome.STORED),
        (0xB006, Outcome.STORED),
        (0xB007, Outcome.STORED),
        (0x0107, Outcome.STORED),
        (None, Outcome.LATER),
        (0xA700, Outcome.LATER),
        (0xA7FF, Outcome.LATER),
        (0x0110, Outcome.LATER),
        (0x0124, Outcome.REFUSED),
        (0x0122, Outcome.REFUSED),
        (0xA900, Outcome.REFUSED),
        (0xC000, Outcome.REFUSED),
        (0xFE00, Outcome.REFUSED),
    ],
)
def test_a_peers_status_means_stored_later_or_refused(status: int | None, outcome: Outcome) -> None:
    assert outcome_of(status) is outcome


def test_every_error_has_its_status() -> None:
    assert status_of(StoreFull()) == 0xA700
    assert status_of(StoreFailed()) == 0xA700
    assert status_of(Refusal(Status.CANNOT_UNDERSTAND, "x")) == 0xC000
    assert status_of(ZeroDivisionError()) == 0x0110


def test_statuses_have_the_codes_of_the_standard() -> None:
    codes = {status.name: f"{status:04X}" for status in Status}
    assert codes["OUT_OF_RESOURCES"] == "A700"
    assert codes["DATA_SET_MISMATCH"] == "A900"
    assert codes["CANNOT_UNDERSTAND"] == "C000"
    assert codes["NOT_AUTHORISED"] == "0124"
    assert codes["SOP_CLASS_NOT_SUPPORTED"] == "0122"
    assert codes["PROCESSING_FAILURE"] == "0110"


# --- who may come in ---------------------------------------------------------------------------------------------


def request_from(host: str, *, calling: str = "CT1", called: str = "UMIT") -> AssociationRequest:
    return AssociationRequest(
        calling_ae_title=calling,
        called_ae_title=called,
        peer_host=host,
        protocol_version=1,
        application_context=negotiation.APPLICATION_CONTEXT,
        contexts=(),
        pdu=b"",
    )


def peer(**changes) -> Peer:
    return Peer(**{"name": "ct1", "ae_title": "CT1", "host": "10.0.0.5", "port": 104, **changes})


@pytest.mark.parametrize(
    ("host", "addresses", "is_in"),
    [
        ("10.0.0.5", (), True),
        ("10.0.0.6", (), False),
        ("::ffff:10.0.0.5", (), True),
        ("10.0.0.6", ("10.0.0.6", "10.0.0.7"), True),
        ("10.0.0.5", ("10.0.0.6",), False),
        ("10.0.9.9", ("10.0.0.0/16",), True),
        ("10.1.9.9", ("10.0.0.0/16",), False),
        ("127.0.0.1", ("localhost",), True),
        ("10.0.0.5", ("no-such-host.invalid",), False),
        ("fe80::1%eth0", ("fe80::/10",), True),
        ("strange", ("10.0.0.0/8",), False),
    ],
)
def test_a_peer_must_call_from_its_own_address(host: str, addresses: tuple[str, ...], is_in: bool) -> None:
    admission = Doorkeeper("UMIT").judge(request_from(host), [peer(addresses=addresses)])
    assert (admission.rejection is None) == is_in
    if not is_in:
        assert admission.rejection is Rejection.CALLING_AE_TITLE_NOT_RECOGNISED


def test_titles_must_be_known_and_ours() -> None:
    doorkeeper = Doorkeeper("UMIT")
    assert doorkeeper.judge(request_from("10.0.0.5", called="UMI"), [peer()]).rejection is (
        Rejection.CALLED_AE_TITLE_NOT_RECOGNISED
    )
    assert doorkeeper.judge(request_from("10.0.0.5", calling="ct1"), [peer()]).rejection is (
        Rejection.CALLING_AE_TITLE_NOT_RECOGNISED
    )
    stations = [peer(may_send=False), peer(name="ct1b", addresses=("10.0.0.0/24",))]
    assert doorkeeper.judge(request_from("10.0.0.5"), stations).may_store
    assert not doorkeeper.judge(request_from("10.0.0.5"), stations[:1]).may_store


def test_the_librarys_own_lines_stay_silent() -> None:
    peer_address = PeerAddress(ae_title="NOBODY", host="127.0.0.1", port=free_port())
    with pytest.raises(PeerUnavailable):
        echo(peer_address, calling_ae_title="UMIT", timeouts=NetworkTimeouts(connect_s=2, response_s=2))
    assert logging.getLogger("pynetdicom.association").getEffectiveLevel() >= logging.CRITICAL
    assert _config.LOG_HANDLER_LEVEL == "none"
