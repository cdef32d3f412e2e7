"""An object that fails the node's own check stays behind; the others arrive at the peer, and `why` says so."""

from __future__ import annotations

import json
from contextlib import closing

import pydicom
import pytest
import typer
from typer.testing import CliRunner

from tests.peer_programs import running_storescp
from tests.result_fixtures import radiograph_run
from umit_pacs.cli import studies as commands
from umit_pacs.durable_work import WorkStarter, prepare_workflow_database
from umit_pacs.handoffs import ObjectKind
from umit_pacs.pipeline import send_what_is_due, write_results
from umit_pacs.settings import load_settings
from umit_pacs.states import InputSetState
from umit_pacs.store.database import migrate, open_catalogue
from umit_pacs.store.deliveries import deliveries
from umit_pacs.store.files import PayloadFiles
from umit_pacs.store.instances import record_instances
from umit_pacs.store.leases import heartbeat, hold_lease
from umit_pacs.store.peers import Peer, add_peer
from umit_pacs.store.results import record_decision, record_findings
from umit_pacs.store.stopped import stopped_objects
from umit_pacs.store.studies import change_state, create_input_set, input_set_status
from umit_pacs.vocabulary import load_templates
from umit_pacs.worker_boundary import Tools, equip

pytestmark = pytest.mark.peer


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "node.toml"
    path.write_text('[store]\nfolder = "."\n', encoding="utf-8")
    return path


@pytest.fixture
def tools(config):
    settings = load_settings(config)
    migrate(settings.catalogue_url)
    prepare_workflow_database(settings.workflow_url)
    with (
        closing(open_catalogue(settings.catalogue_url)) as catalogue,
        closing(WorkStarter(settings.workflow_url)) as starter,
    ):
        tools = Tools(
            settings=settings,
            catalogue=catalogue,
            files=PayloadFiles(settings.store.folder),
            starter=starter,
            worker="here/work-0",
            templates=load_templates(),
        )
        heartbeat(catalogue, tools.worker, 60)
        equip(tools)
        yield tools


def analysed(tools, run):
    """Record the run as far as its findings, in this process's hand."""
    name = run.input_set.input_set_id
    record_instances(tools.catalogue, run.input_set.instances)
    assert create_input_set(tools.catalogue, run.input_set)
    record_decision(tools.catalogue, run.decision)
    change_state(tools.catalogue, name, InputSetState.ROUTED)
    record_findings(tools.catalogue, run.findings)
    change_state(tools.catalogue, name, InputSetState.ANALYSED)
    hold_lease(tools.catalogue, tools.worker, name)
    return name


def why(config, study):
    app = typer.Typer()
    commands.register(app)
    result = CliRunner().invoke(app, ["why", study, "--json", "--config", str(config)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_the_others_arrive_and_why_names_what_was_stopped(tools, config, tmp_path):
    run = radiograph_run(tools.files.root)
    composed = run.compose()
    # A page that an earlier attempt wrote is taken as it is; what befell it since makes it fail its check.
    page = next(item for item in composed if item.kind is ObjectKind.SECONDARY_CAPTURE)
    ds = pydicom.dcmread(tools.files.path(page.relative_path))
    ds.PixelData = bytes(len(ds.PixelData))
    ds.save_as(tools.files.path(page.relative_path))
    with running_storescp(tmp_path / "storescp") as peer:
        address = peer.address
        add_peer(tools.catalogue, Peer(name="PACS", ae_title=address.ae_title, host=address.host, port=address.port))
        name = analysed(tools, run)
        write_results(name)
        status = input_set_status(tools.catalogue, name)
        assert (status.state, status.reason) == (InputSetState.COMPOSED, "objects_stopped")
        send_what_is_due(name)
        assert input_set_status(tools.catalogue, name).state is InputSetState.DELIVERED
        held = {str(pydicom.dcmread(path).SOPInstanceUID) for path in peer.received_files()}
    others = {str(item.sop_instance_uid) for item in composed} - {str(page.sop_instance_uid)}
    assert others
    assert held == others
    assert {str(item.sop_instance_uid) for item in deliveries(tools.catalogue, input_set_id=name)} == others
    (stopped,) = stopped_objects(tools.catalogue, name)
    assert (stopped.stopped.kind, stopped.stopped.number) == (ObjectKind.SECONDARY_CAPTURE, 1)
    told = why(config, run.input_set.study_instance_uid)
    assert "1 object failed the node's own check" in told["headline"]
    assert any("banner" in event["text"] and "stopped" in event["text"] for event in told["events"])
