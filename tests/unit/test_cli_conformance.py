"""`umit-pacs conformance`: what the statement says is what the code does."""

import json
import re

import pytest
import typer
from pydicom.uid import AllTransferSyntaxes
from pynetdicom import AllStoragePresentationContexts
from typer.testing import CliRunner

from umit_pacs.cli import conformance as conformance_command
from umit_pacs.cli.conformance import conformance_facts
from umit_pacs.dicom_network.negotiation import AssociationRequest, ProposedContext
from umit_pacs.dicom_network.served_association import supported_contexts
from umit_pacs.dicom_network.statuses import Status, outcome_of
from umit_pacs.handoffs import ObjectKind


@pytest.fixture
def run(tmp_path):
    config = tmp_path / "node.toml"
    config.write_text('[listener]\nae_title = "READER"\nmaximum_associations = 7\n', encoding="utf-8")
    app = typer.Typer()
    app.callback()(lambda: None)
    conformance_command.register(app)

    def invoke(*arguments):
        result = CliRunner().invoke(app, ["conformance", *map(str, arguments), "--config", str(config)])
        assert result.exit_code == 0, result.output
        return result.stdout

    return invoke


def rows_after(statement, heading):
    """Cells of the first table after a line that starts with `heading`."""
    table = statement[statement.index(heading) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in table]


def accepted_contexts(contexts):
    request = AssociationRequest(
        calling_ae_title="A",
        called_ae_title="B",
        peer_host="127.0.0.1",
        protocol_version=1,
        application_context="",
        contexts=tuple(
            ProposedContext(context_id=2 * i + 1, abstract_syntax=abstract, transfer_syntaxes=(syntax,))
            for i, (abstract, syntax) in enumerate(contexts)
        ),
        pdu=b"",
    )
    return {(str(c.abstract_syntax), str(syntax)) for c in supported_contexts(request) for syntax in c.transfer_syntax}


def test_every_storage_class_of_the_statement_is_negotiated_and_none_is_left_out():
    listed = set(conformance_facts()["storage_classes"])
    assert {str(context.abstract_syntax) for context in AllStoragePresentationContexts} <= listed
    proposed = [(uid, "1.2.840.10008.1.2.1") for uid in sorted(listed)]
    for start in range(0, len(proposed), 100):
        part = proposed[start : start + 100]
        assert accepted_contexts(part) >= set(part)


def test_the_transfer_syntaxes_of_the_statement_are_those_that_are_negotiated():
    listed = set(conformance_facts()["storage_transfer_syntaxes"])
    ct = "1.2.840.10008.5.1.4.1.1.2"
    proposed = [(ct, str(syntax)) for syntax in AllTransferSyntaxes]
    assert {syntax for _, syntax in accepted_contexts(proposed)} == listed


def test_every_status_stands_in_the_statement_with_a_meaning(run):
    rows = rows_after(run(), "| Status | Meaning |")
    assert [code for code, _ in rows] == [f"{status:04X}" for status in Status]
    assert all(meaning for _, meaning in rows)


def test_what_follows_a_status_is_what_the_sender_does(run):
    followed = {"stored": "held", "later": "sent again after", "refused": "dead letter"}
    for code, text in rows_after(run(), "| Status | What follows |"):
        assert text.startswith(followed[outcome_of(int(code, 16))])


def test_no_kind_of_result_is_missing_from_the_statement(run):
    kinds = [kind for kind, *_ in rows_after(run(), "| Result | SOP class |")]
    # What reporting systems get is no DICOM.
    assert sorted(kinds) == sorted(kind for kind in ObjectKind if not kind.startswith(("hl7_", "fhir_")))


def test_the_results_are_of_classes_that_the_standard_names(run):
    known = set(conformance_facts()["storage_classes"].values())
    assert {sop_class for _, sop_class, *_ in rows_after(run(), "| Result | SOP class |")} <= known


def test_the_statement_speaks_of_this_node(run):
    statement = run()
    assert "One application entity, `READER`" in statement
    assert ["maximum_associations", "7"] in [row[:2] for row in rows_after(statement, "| Setting | Value |")]


def test_nothing_of_the_template_is_left_over(run):
    assert not re.search(r"\$\w", run())


def test_the_statement_can_be_written_to_a_file_and_the_facts_as_json(run, tmp_path):
    assert run("--output", tmp_path / "statement.md") == ""
    assert (tmp_path / "statement.md").read_text(encoding="utf-8") == run()
    assert json.loads(run("--json")) == conformance_facts()
