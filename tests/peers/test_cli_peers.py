"""`umit-pacs peers` against Orthanc and DCMTK."""

import json

import pytest
import typer
from typer.testing import CliRunner

from tests.peer_programs import free_port, running_orthanc, running_storescp
from tests.reporting_fixtures import running_hl7_receiver
from umit_pacs.cli import peers as peers_commands
from umit_pacs.dicom_network.addresses import NetworkTimeouts
from umit_pacs.dicom_network.sender import refused_classes
from umit_pacs.errors import InvalidConfiguration

SC = "1.2.840.10008.5.1.4.1.1.7"
FIND = "1.2.840.10008.5.1.4.1.2.2.1"

pytestmark = pytest.mark.peer


@pytest.fixture
def run(tmp_path):
    """Run `umit-pacs peers ...` on a new node."""
    config = tmp_path / "node.toml"
    config.write_text('[deliver]\nconnect_timeout_s = 3.0\n[listener]\nae_title = "UMIT"\n', encoding="utf-8")
    app = typer.Typer()
    peers_commands.register(app)

    def invoke(*arguments):
        return CliRunner().invoke(app, ["peers", *map(str, arguments), "--config", str(config)])

    return invoke


def added(run, name, address, *options):
    arguments = ("--ae-title", address.ae_title, "--host", address.host, "--port", address.port)
    result = run("add", name, *arguments, *options, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refusal(result):
    assert isinstance(result.exception, InvalidConfiguration), result.output
    return result.exception.detail


def test_a_pacs_is_asked_what_it_offers_when_it_is_added(run, tmp_path):
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        peer = added(run, "PACS", orthanc.address)
        assert (peer["may_send"], peer["receives_results"]) == (True, True)
        assert (peer["answers_query"], peer["answers_commitment"]) == (True, True)
        assert added(run, "PACS", orthanc.address, "--no-commitment")["answers_commitment"] is False
        (listed,) = json.loads(run("list", "--json").stdout)
        assert listed["answers_commitment"] is False


def test_a_peer_that_hands_over_no_earlier_studies_is_told_at_once(run, tmp_path):
    with running_storescp(tmp_path / "storescp") as storescp:
        address = storescp.address
        arguments = ("--ae-title", address.ae_title, "--host", address.host, "--port", address.port)
        result = run("add", "STORE", *arguments, "--priors", "get")
    assert "It does not accept C-FIND and C-GET from UMIT" in result.output
    (listed,) = json.loads(run("list", "--json").stdout)
    assert listed["priors_by"] == "get"


def test_for_c_move_the_title_for_earlier_studies_is_named(run, tmp_path):
    with running_orthanc(tmp_path / "orthanc") as orthanc:
        address = orthanc.address
        arguments = ("--ae-title", address.ae_title, "--host", address.host, "--port", address.port)
        result = run("add", "PACS", *arguments, "--priors", "move")
    assert "register UMIT_PRIOR with port 11112 for earlier studies" in result.output


def test_a_peer_without_query_and_commitment_is_known_as_such(run, tmp_path):
    with running_storescp(tmp_path / "storescp") as storescp:
        peer = added(run, "STORE", storescp.address)
        assert (peer["answers_query"], peer["answers_commitment"]) == (False, False)
        timeouts = NetworkTimeouts(connect_s=5.0, response_s=5.0)
        asked = refused_classes(storescp.address, (SC, FIND), calling_ae_title="UMIT", timeouts=timeouts)
        assert asked == (FIND,)
        asked = refused_classes(storescp.address, (FIND,), calling_ae_title="UMIT", timeouts=timeouts)
        assert asked == (FIND,)


def test_echo_tells_who_answers_and_fails_when_one_does_not(run, tmp_path):
    with running_storescp(tmp_path / "storescp") as storescp:
        added(run, "here", storescp.address)
        result = run("echo", "--json")
        assert result.exit_code == 0
        assert json.loads(result.stdout)[0]["is_answering"] is True
        options = ("--host", "127.0.0.1", "--port", free_port(), "--no-query", "--no-commitment")
        run("add", "gone", "--ae-title", "GONE", *options)
        result = run("echo", "--json")
        assert result.exit_code == 1
        assert [(a["peer"], a["is_answering"]) for a in json.loads(result.stdout)] == [("gone", False), ("here", True)]
        assert run("echo", "here").exit_code == 0
        assert "does not answer" in json.loads(run("echo", "gone", "--json").stdout)[0]["detail"]


#: an archive from before structured reports other than text: DCMTK's association configuration
OLD_ARCHIVE = r"""
[[TransferSyntaxes]]
[Plain]
TransferSyntax1 = LittleEndianExplicit
TransferSyntax2 = LittleEndianImplicit
[[PresentationContexts]]
[Old]
PresentationContext1 = VerificationSOPClass\Plain
PresentationContext2 = SecondaryCaptureImageStorage\Plain
PresentationContext3 = BasicTextSRStorage\Plain
PresentationContext4 = KeyObjectSelectionDocumentStorage\Plain
[[Profiles]]
[Old]
PresentationContexts = Old
"""


def test_echo_names_what_drafts_need_and_a_peer_does_not_take(run, tmp_path):
    configuration = tmp_path / "old.cfg"
    configuration.write_text(OLD_ARCHIVE, encoding="utf-8")
    with running_storescp(tmp_path / "storescp", options=("-xf", str(configuration), "Old")) as storescp:
        added(run, "classic", storescp.address, "--profile", "classic")
        added(run, "reader", storescp.address, "--profile", "text-only", "--retire", "iocm")
        added(run, "ruled", storescp.address)
        added(run, "scanner", storescp.address, "--no-receives")
        result = run("echo", "--json")
        assert result.exit_code == 0, result.output
        refused = {answer["peer"]: answer["does_not_take"] for answer in json.loads(result.stdout)}
    assert refused == {
        "classic": ["Grayscale Softcopy Presentation State Storage"],
        "reader": ["Enhanced SR Storage"],
        "ruled": ["Enhanced SR Storage", "Comprehensive 3D SR Storage"],
        "scanner": [],
    }


def test_a_peer_that_is_away_can_be_added(run):
    result = run("add", "later", "--ae-title", "LATER", "--host", "127.0.0.1", "--port", free_port())
    assert result.exit_code == 0
    assert "does not answer" in result.stderr
    assert "LATER" in run("list").stdout


def test_a_removed_peer_is_no_longer_known(run):
    run("add", "P", "--ae-title", "P", "--host", "127.0.0.1", "--port", 104, "--no-query", "--no-commitment")
    assert run("remove", "P").exit_code == 0
    assert json.loads(run("list", "--json").stdout) == []
    assert "no peer 'P'" in refusal(run("remove", "P"))
    assert "no peer P" in refusal(run("echo", "P"))


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("sender", {}, "stands for whoever sent a study"),
        (" ", {}, "cannot name a peer"),
        ("P", {"--ae-title": "SEVENTEEN_LETTERS"}, "--ae-title: "),
        ("P", {"--ae-title": "BACK\\SLASH"}, "--ae-title: "),
        ("P", {"--host": "two words"}, "--host: "),
        ("P", {"--host": "10.0.0.0/8"}, "not a network"),
        ("P", {"--address": "10.0.0.0/99"}, "--address: "),
    ],
)
def test_what_cannot_be_a_peer_is_refused(run, name, changes, words):
    options = {"--ae-title": "P", "--host": "127.0.0.1", "--port": "104"} | changes
    assert words in refusal(run("add", name, *(word for option in options.items() for word in option)))
    result = run("add", "P", "--ae-title", "P", "--host", "127.0.0.1", "--port", "70000")
    assert result.exit_code == 2


def test_a_reporting_system_is_added_listed_and_reached_by_its_address(run, tmp_path):
    with running_hl7_receiver() as receiver:
        result = run("add-reporting-system", "RIS", f"mllp://127.0.0.1:{receiver.port}", "--json")
        assert result.exit_code == 0, result.output
        peer = json.loads(result.stdout)
        assert (peer["may_send"], peer["receives_results"], peer["ae_title"]) == (False, True, "")
        assert [item["url"] for item in json.loads(run("list", "--json").stdout)] == [peer["url"]]
        (answer,) = json.loads(run("echo", "RIS", "--json").stdout)
        assert answer["is_answering"]
    assert run("echo", "RIS").exit_code == 1
    assert "mllps or https" in refusal(run("add-reporting-system", "RIS", "mllp://ris.hospital:2575"))
    missing = run("add-reporting-system", "RIS", "mllps://ris.hospital:2575", "--ca-file", tmp_path / "none.pem")
    assert "there is no file" in refusal(missing)
