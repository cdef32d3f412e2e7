"""What reporting systems demand of this node: certificates, tokens, and names in the message header."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import socket
import sqlite3
import ssl
import subprocess

import pytest
import typer
from typer.testing import CliRunner

from tests.reporting_fixtures import certificates_in, running_fhir_store, running_hl7_receiver
from tests.versions_fixtures import versioned_study
from umit_pacs.cli import peers as peers_commands
from umit_pacs.dicom_network.addresses import NetworkTimeouts
from umit_pacs.errors import InvalidConfiguration, PeerUnavailable
from umit_pacs.handoffs import ObjectKind
from umit_pacs.hl7_network.listener import listening
from umit_pacs.interventions import retract
from umit_pacs.reporting_systems.connecting import reach, system_of
from umit_pacs.settings import HL7Settings
from umit_pacs.states import DeliveryState, InputSetState, RejectionReason
from umit_pacs.store.peers import MessageAddresses, add_peer, peer, reporting_system
from umit_pacs.store.results import result_objects

pytestmark = [pytest.mark.peer, pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")]

RIS = {"destinations": ("ris",), "kinds": {"ris": (ObjectKind.HL7_REPORT,)}}
EMR = {"destinations": ("emr",), "kinds": {"emr": (ObjectKind.FHIR_REPORT,)}}
TIMEOUTS = NetworkTimeouts(connect_s=5, response_s=20)
TOKEN = "canary-token-0815"


@pytest.fixture
def study(tmp_path):
    with versioned_study(tmp_path / "node") as study:
        yield study


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return certificates_in(tmp_path_factory.mktemp("certificates"))


def shown(certificates):
    certificate, key = map(str, certificates.node)
    return {"ca_file": str(certificates.authority), "certificate_file": certificate, "key_file": key}


def only(items):
    (item,) = items
    return item


@pytest.mark.parametrize("kind", ["mllps", "https"])
def test_a_system_that_demands_a_certificate_gets_the_nodes_and_nothing_before(study, certificates, kind):
    running, decided, name = (running_hl7_receiver, RIS, "ris") if kind == "mllps" else (running_fhir_store, EMR, "emr")
    version = study.image_arrives(**decided)
    study.compose(version)
    with running(certificates.demanding_context()) as receiver:
        url = f"{kind}://localhost:{receiver.port}" + ("" if kind == "mllps" else "/fhir")
        without = reporting_system(name, url, ca_file=str(certificates.authority))
        add_peer(study.tools.catalogue, without)
        study.return_once(version)
        waiting = only(study.deliveries(version))
        assert waiting.state is DeliveryState.PENDING
        with pytest.raises(PeerUnavailable, match="--certificate-file"):
            reach(system_of(without), TIMEOUTS)
        if kind == "https":
            assert waiting.detail == "emr demands a certificate of this node: set --certificate-file"
            assert waiting.begun_at is None, "it has seen nothing of the draft"
        # asyncio's servers hang up without an alert.
        assert (receiver.received if kind == "mllps" else receiver.posts) == []
        with_it = reporting_system(name, url, **shown(certificates))
        add_peer(study.tools.catalogue, with_it)
        reach(system_of(peer(study.tools.catalogue, name)), TIMEOUTS)
        assert study.is_returned(version).state is InputSetState.CONFIRMED
        assert len(receiver.received if kind == "mllps" else receiver.posts) == 1


def test_a_certificate_of_another_authority_is_told_from_none(study, certificates, tmp_path):
    stranger = certificates_in(tmp_path)
    with running_hl7_receiver(certificates.demanding_context()) as receiver:
        options = shown(stranger) | {"ca_file": str(certificates.authority)}
        system = system_of(reporting_system("ris", f"mllps://localhost:{receiver.port}", **options))
        with pytest.raises(PeerUnavailable, match="does not accept this node's certificate"):
            reach(system, TIMEOUTS)


def test_final_reports_are_taken_only_from_who_shows_a_certificate(certificates):
    certificate, key = certificates.server
    settings = HL7Settings(certificate_file=certificate, key_file=key, ca_file=certificates.authority)
    content = b"\x0bMSH|^~\\&|RIS|H|UMIT|H|||ADT^A01|7|P|2.5.1\r\x1c\r"
    context = ssl.create_default_context(cafile=str(certificates.authority))
    with listening(settings, lambda report: None) as port:

        def answer():
            with socket.create_connection(("localhost", port), 10) as plain:
                with context.wrap_socket(plain, server_hostname="localhost") as client:
                    client.sendall(content)
                    return client.recv(4096)

        with contextlib.suppress(ConnectionError):
            with pytest.raises(ssl.SSLError, match=r"CERTIFICATE_REQUIRED|EOF occurred"):
                answer()
        context.load_cert_chain(*certificates.node)
        assert b"MSA|AR|7" in answer()


def test_certificates_without_tls_stop_the_start_of_the_listener(certificates):
    with pytest.raises(ValueError, match="there is no TLS"):
        HL7Settings(ca_file=certificates.authority)


@pytest.mark.parametrize("place", ["env", "file"])
def test_a_token_is_read_when_it_is_needed_and_kept_nowhere(study, tmp_path, monkeypatch, caplog, place):
    token = "env:EMR_TOKEN_OF_TEST" if place == "env" else f"file:{tmp_path / 'token'}"

    def renew(text):
        if place == "env":
            monkeypatch.setenv("EMR_TOKEN_OF_TEST", text)
        else:
            (tmp_path / "token").write_text(f"{text}\n")

    with running_fhir_store() as store, caplog.at_level(logging.DEBUG):
        store.authorization = f"Bearer {TOKEN}"
        add_peer(study.tools.catalogue, reporting_system("emr", f"http://127.0.0.1:{store.port}/fhir", token=token))
        version = study.image_arrives(**EMR)
        study.compose(version)
        study.return_once(version)
        assert f"nothing can be read from {token}" in only(study.deliveries(version)).detail
        renew("expired")
        study.return_once(version)
        refused = only(study.deliveries(version))
        assert (refused.state, refused.last_status) == (DeliveryState.PENDING, "401")
        assert refused.detail == f"emr does not accept the token from {token}"
        renew(TOKEN)
        assert study.is_returned(version).state is InputSetState.CONFIRMED
        assert len(store.posts) == 1
    with contextlib.closing(sqlite3.connect(study.folder / "catalogue.sqlite")) as connection:
        assert TOKEN not in "\n".join(connection.iterdump())
    assert TOKEN not in "\n".join(f"{record.getMessage()} {record.__dict__}" for record in caplog.records)


def test_a_server_that_wants_a_token_says_so(study):
    with running_fhir_store() as store:
        store.authorization = f"Bearer {TOKEN}"
        add_peer(study.tools.catalogue, reporting_system("emr", f"http://127.0.0.1:{store.port}/fhir"))
        version = study.image_arrives(**EMR)
        study.compose(version)
        study.return_once(version)
        assert only(study.deliveries(version)).detail == "emr wants a token: set --token"


def test_each_system_is_told_its_own_application_and_facility_in_the_same_message(study):
    addresses = MessageAddresses(
        sending_application="AI^1.2.3^ISO", receiving_application="RIS", receiving_facility="Klinik Süd"
    )
    with running_hl7_receiver() as one, running_hl7_receiver() as other:
        add_peer(
            study.tools.catalogue,
            reporting_system("ris", f"mllp://127.0.0.1:{one.port}", message_addresses=addresses),
        )
        add_peer(study.tools.catalogue, reporting_system("other", f"mllp://127.0.0.1:{other.port}"))
        kinds = dict.fromkeys(("ris", "other"), (ObjectKind.HL7_REPORT,))
        version = study.image_arrives(destinations=("ris", "other"), kinds=kinds)
        assert study.comes_back(version).state is InputSetState.CONFIRMED
        retract(study.tools.catalogue, study.uid, RejectionReason.QUALITY, "")
        assert study.is_returned(version).state is InputSetState.RETRACTED
    for message in one.received:
        header = message.segment("MSH")
        assert [str(header(number)) for number in (3, 5, 6)] == ["AI^1.2.3^ISO", "RIS", "Klinik Süd"]
    assert str(one.received[0].segment("MSH")(4)) == str(other.received[0].segment("MSH")(4))
    header = other.received[0].segment("MSH")
    assert [str(header(number)) for number in (3, 5, 6)] == ["UMIT PACS", "", ""]
    # All else is the stored result, for both.
    (stored,) = [
        study.tools.files.path(item.relative_path).read_bytes().decode("utf-8")
        for item in result_objects(study.tools.catalogue, version)
        if item.kind is ObjectKind.HL7_REPORT
    ]
    for receiver in (one, other):
        assert str(receiver.received[0]).split("\r", 1)[1].strip("\r") == stored.split("\r", 1)[1].strip("\r")


# --- the command line --------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    config = tmp_path / "node.toml"
    config.write_text("")
    app = typer.Typer()
    peers_commands.register(app)

    def invoke(*arguments):
        return CliRunner().invoke(app, ["peers", *map(str, arguments), "--config", str(config)])

    return invoke


def test_what_a_system_demands_is_set_by_the_command_line(run, certificates, tmp_path):
    certificate, key = certificates.node
    (tmp_path / "token").write_text(TOKEN)
    options = ("--certificate-file", certificate, "--key-file", key, "--token", f"file:{tmp_path / 'token'}")
    run("add-reporting-system", "EMR", "https://fhir.hospital/r4", *options)
    header = ("--receiving-application", "RIS", "--receiving-facility", "HOSP", "--sending-facility", "RAD")
    run("add-reporting-system", "RIS", "mllps://ris.hospital:2575", *header)
    emr, ris = json.loads(run("list", "--json").stdout)
    assert (emr["certificate_file"], emr["key_file"]) == (str(certificate), str(key))
    assert emr["token"] == f"file:{tmp_path / 'token'}"
    assert ris["message_addresses"]["receiving_application"] == "RIS"
    assert ris["message_addresses"]["sending_facility"] == "RAD"


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("https://emr/r4", ("--token", TOKEN), "never the token itself"),
        ("mllps://ris:2575", ("--token", "env:X"), "no tokens"),
        ("https://emr/r4", ("--token", "file:/no/where"), "there is no file"),
        ("https://emr/r4", ("--receiving-application", "RIS"), "for HL7 messages"),
        ("mllps://ris:2575", ("--receiving-application", "RIS|2"), "--receiving-application"),
        ("mllps://ris:2575", ("--key-file", "KEY"), "--certificate-file"),
        ("mllp://127.0.0.1:2575", ("--certificate-file", "CERTIFICATE", "--key-file", "KEY"), "has no TLS"),
        ("mllps://ris:2575", ("--certificate-file", "CERTIFICATE", "--key-file", "STRANGE"), "belong together"),
        ("mllps://ris:2575", ("--certificate-file", "CERTIFICATE", "--key-file", "LOCKED"), "no passphrase"),
    ],
)
def test_what_would_do_nothing_or_cannot_work_is_refused_with_the_reason(
    run, certificates, tmp_path, url, options, words
):
    certificate, key = certificates.node
    locked = tmp_path / "locked.key"
    command = ["openssl", "rsa", "-aes256", "-passout", "pass:secret", "-in", key, "-out", locked]
    subprocess.run(command, check=True, capture_output=True)
    files = {"CERTIFICATE": certificate, "KEY": key, "STRANGE": certificates.server[1], "LOCKED": locked}
    done = run("add-reporting-system", "X", url, *(files.get(word, word) for word in options))
    assert isinstance(done.exception, InvalidConfiguration), done.output
    assert words in done.exception.detail
    assert TOKEN not in done.exception.detail
