"""Final reports that a peer holds and does not send: found by C-FIND, retrieved, and read like those that are sent."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from functools import partial
from itertools import pairwise

import pydicom
import pytest
import typer
from typer.testing import CliRunner

from tests.peer_programs import running_dcmqrscp, running_orthanc, running_storescp, store_with_storescu
from tests.peers.test_feedback import final_report, verdicts
from tests.receive_fixtures import running_receiver
from tests.versions_fixtures import versioned_study
from umit_pacs.cli import feedback as feedback_commands
from umit_pacs.cli import peers as peers_commands
from umit_pacs.cli.story_lines import lines_of
from umit_pacs.dicom_network.addresses import NetworkTimeouts
from umit_pacs.errors import InvalidConfiguration
from umit_pacs.handoffs import ObjectKind
from umit_pacs.settings import AssembleSettings, FinalReportsSettings
from umit_pacs.states import RetrieveBy
from umit_pacs.steps.assemble import assemble_due
from umit_pacs.steps.feedback import FeedbackReader, read_reports
from umit_pacs.steps.fetch_reports import ReportFetcher, fetch_reports
from umit_pacs.steps.receive import keeping
from umit_pacs.store.database import utc_now
from umit_pacs.store.feedback import all_feedback
from umit_pacs.store.instances import count_recorded
from umit_pacs.store.peers import add_peer, peer, remove_peer
from umit_pacs.store.report_searches import count_report_searches, report_searches_of
from umit_pacs.store.results import result_objects
from umit_pacs.store.stories import story
from umit_pacs.verdicts import FeedbackSource, FindingVerdict
from umit_pacs.vocabulary import load_templates

pytestmark = pytest.mark.peer

HOUR = 3600.0
SETTINGS = FinalReportsSettings(first_pause_s=HOUR, longest_pause_s=24 * HOUR, give_up_after_s=10 * 24 * HOUR)
ORTHANC = partial(running_orthanc, more_configuration={"DicomAlwaysAllowGet": True, "DicomAlwaysAllowMove": True})
SENTENCES = ("There is a nodule in the right lung.", "No pleural effusion.")


@pytest.fixture
def study(tmp_path):
    with versioned_study(tmp_path / "node") as study:
        yield study


class Node:
    """A node's schedule for one study, moved by hand."""

    def __init__(self, study, settings=SETTINGS, ae_title="UMIT", *, is_stopping=False):
        self.study = study
        self.settings = settings
        self.begun = utc_now()
        self.reader = FeedbackReader(
            catalogue=study.tools.catalogue, files=study.tools.files, templates=load_templates()
        )
        self._fetcher = ReportFetcher(
            catalogue=study.tools.catalogue,
            settings=settings,
            ae_title=ae_title,
            timeouts=NetworkTimeouts(connect_s=5, response_s=20),
            keeping=lambda: keeping(study.tools.settings, study.tools.catalogue, study.tools.files),
            is_stopping=lambda: is_stopping,
        )

    def looks(self, *, after_hours):
        """One round, so long after the draft; how many reports came."""
        return fetch_reports(self._fetcher, self.begun + timedelta(hours=after_hours, seconds=5))

    def reads(self):
        settings = AssembleSettings(quiet_period_s=0.0, ask_expected_count=False)
        catalogue, files = self.study.tools.catalogue, self.study.tools.files
        made = assemble_due(catalogue, settings, now=utc_now(), count_instances=lambda *_: None, files=files)
        assert made == ()
        return read_reports(self.reader)

    @property
    def search(self):
        (search,) = report_searches_of(self.study.tools.catalogue, self.study.uid)
        return search


def drafted(study, archive, reports_by=RetrieveBy.GET):
    """The study's draft is at the archive, which is asked for final reports; the draft's objects."""
    study.add_destination("pacs", archive, reports_by=reports_by)
    version = study.image_arrives()
    study.comes_back(version)
    return [
        pydicom.dcmread(study.tools.files.path(item.relative_path))
        for item in result_objects(study.tools.catalogue, version)
        if item.kind in (ObjectKind.TEXT_REPORT, ObjectKind.MEASUREMENT_REPORT)
    ]


@pytest.mark.parametrize("running", [ORTHANC, running_dcmqrscp], ids=["orthanc", "dcmqrscp"])
def test_a_final_report_is_fetched_once_and_compared_with_the_draft(tmp_path, study, running):
    with running(tmp_path / "pacs") as pacs:
        draft = drafted(study, pacs)
        node = Node(study)
        before = count_recorded(study.tools.catalogue)
        assert node.looks(after_hours=0.5) == 0
        assert node.search.looks == 0
        # Our own drafts are at the archive; none of them is taken for a final report.
        assert node.looks(after_hours=1) == 0
        assert node.search.looks == 1
        path = final_report(draft, tmp_path, *SENTENCES)
        store_with_storescu([path], pacs.address)
        assert node.looks(after_hours=2) == 0, "the pause has grown"
        assert node.looks(after_hours=3) == 1
        assert node.reads() == 1
        assert node.reads() == 0
        (given,) = all_feedback(study.tools.catalogue)
        assert (given.source, given.document) == (FeedbackSource.FINAL_REPORT, path.stem)
        assert verdicts(given)["nodule"] is FindingVerdict.LATERALITY
        assert node.looks(after_hours=24) == 0
        assert (node.search.next_look_at, node.search.reason, node.search.retrieved) == (None, "found", 1)
        assert node.looks(after_hours=48) == 0
        assert count_recorded(study.tools.catalogue) == before + 1
        told = [line.text for line in lines_of(story(study.tools.catalogue, study.uid))]
    assert any("pacs was asked for the final report, 2 times; 1 report came." in text for text in told)


def test_a_final_report_comes_by_c_move_to_the_listener(tmp_path, study):
    with ORTHANC(tmp_path / "pacs") as pacs:
        draft = drafted(study, pacs, RetrieveBy.MOVE)
        store_with_storescu([final_report(draft, tmp_path, *SENTENCES)], pacs.address)
        found = replace(peer(study.tools.catalogue, "pacs"), addresses=("127.0.0.0/8",))
        with running_receiver(study.folder, found) as receiver:
            pacs.register(receiver.address)
            node = Node(study)
            before = count_recorded(study.tools.catalogue)
            node.looks(after_hours=0)
            assert node.looks(after_hours=1) == 1
            receiver.wait_for_rows(before + 1)
        assert node.reads() == 1
    assert [given.source for given in all_feedback(study.tools.catalogue)] == [FeedbackSource.FINAL_REPORT]


def test_an_unverified_report_does_not_end_the_search(tmp_path, study):
    with running_dcmqrscp(tmp_path / "pacs") as pacs:
        draft = drafted(study, pacs)
        node = Node(study)
        node.looks(after_hours=0)
        store_with_storescu([final_report(draft, tmp_path, *SENTENCES, is_verified=False)], pacs.address)
        node.looks(after_hours=1)
        assert node.reads() == 0
        signed = final_report(draft, tmp_path, *SENTENCES)
        store_with_storescu([signed], pacs.address)
        assert node.looks(after_hours=3) == 1
        assert node.reads() == 1
        node.looks(after_hours=24)
    assert node.search.reason == "found"


def test_a_report_that_is_too_long_or_strange_leaves_the_search_going_and_says_so(tmp_path, study):
    with running_dcmqrscp(tmp_path / "pacs") as pacs:
        draft = drafted(study, pacs)
        store_with_storescu([final_report(draft, tmp_path, *SENTENCES, "Long. " * 2000)], pacs.address)
        node = Node(study, SETTINGS.model_copy(update={"maximum_bytes": 5000}))
        node.looks(after_hours=0)
        assert node.looks(after_hours=1) == 0
        assert (node.search.reason, node.search.looks) == ("too_many_bytes", 1)
        assert Node(study, is_stopping=True).looks(after_hours=3) == 0
        assert Node(study).looks(after_hours=3) == 1


def test_a_peer_that_is_away_is_asked_again_and_the_time_ends(tmp_path, study):
    with running_dcmqrscp(tmp_path / "pacs") as pacs:
        drafted(study, pacs)
        node = Node(study)
        node.looks(after_hours=0)
        pacs.stop()
        node.looks(after_hours=1)
        assert (node.search.reason, node.search.looks) == ("peer_unavailable", 0)
        pacs.start()
        node.looks(after_hours=2)
        assert (node.search.reason, node.search.looks) == ("", 1)
        hours, seen = 2.0, []
        while node.search.next_look_at is not None:
            hours += 1
            before = node.search.looks
            node.looks(after_hours=hours)
            if node.search.looks > before:
                seen.append(hours)
    assert node.search.reason == "gave_up"
    pauses = [late - early for early, late in pairwise(seen)]
    assert pauses == sorted(pauses), "seldomer and seldomer"
    assert pauses[-1] == 24
    assert hours <= 11 * 24
    assert len(seen) < 20


def test_nobody_is_asked_unless_the_peer_is_set_so(tmp_path, study):
    with running_storescp(tmp_path / "pacs") as pacs:
        drafted(study, pacs, RetrieveBy.NO)
        node = Node(study)
        node.looks(after_hours=0)
        node.looks(after_hours=100)
        assert report_searches_of(study.tools.catalogue, study.uid) == ()
        add_peer(study.tools.catalogue, replace(peer(study.tools.catalogue, "pacs"), reports_by=RetrieveBy.GET))
        # One that cannot be asked says so; the draft stays as it is.
        node.looks(after_hours=100)
        node.looks(after_hours=101)
        assert node.search.reason == "no_common_context"
        remove_peer(study.tools.catalogue, "pacs")
        node.looks(after_hours=200)
    assert node.search.reason == "not_asked_any_more"
    assert count_report_searches(study.tools.catalogue) == {"pacs": {"not_asked_any_more": 1}}


def test_the_search_is_set_and_shown_by_the_command_line(tmp_path, study):
    config = tmp_path / "node.toml"
    config.write_text(f'[store]\nfolder = "{study.folder}"\n')
    app = typer.Typer()
    peers_commands.register(app)
    feedback_commands.register(app)

    def run(*arguments):
        return CliRunner().invoke(app, [*arguments, "--config", str(config), "--json"])

    with running_dcmqrscp(tmp_path / "pacs") as pacs:
        drafted(study, pacs)
        address = ("--ae-title", pacs.ae_title, "--host", "127.0.0.1", "--port", str(pacs.port), "--no-commitment")
        assert json.loads(run("peers", "add", "pacs", *address).stdout)["reports_by"] == "no"
        assert json.loads(run("peers", "add", "pacs", *address, "--final-reports", "get").stdout)["reports_by"] == "get"
        refused = run("peers", "add", "pacs", *address, "--final-reports", "move", "--no-sends")
        assert isinstance(refused.exception, InvalidConfiguration)
        Node(study).looks(after_hours=0)
    assert json.loads(run("feedback").stdout)["searches"] == {"pacs": {"waiting": 1}}
    shown = CliRunner().invoke(app, ["feedback", "--config", str(config)])
    assert "final reports that pacs is asked for: 1 waiting" in shown.stdout
