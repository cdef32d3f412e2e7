"""`umit-pacs rules`, as typed."""

import json
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from tests.phantoms import Study, chest_like_ct, write_cr_image, write_ct_series
from umit_pacs.cli import rules as rules_commands
from umit_pacs.errors import InvalidConfiguration, NoUsableFrames
from umit_pacs.handoffs import CompletionReason, InputSet, InstanceUID, SeriesUID, StoredInstance, StudyUID
from umit_pacs.pixels.headers import read_header
from umit_pacs.routing.rules_text import default_rules_text, parse_rules
from umit_pacs.steps.route import name_destinations, route
from umit_pacs.store.database import migrate, open_catalogue, utc_now
from umit_pacs.store.files import PayloadFiles
from umit_pacs.store.instances import record_instances
from umit_pacs.store.peers import Peer, add_peer
from umit_pacs.store.results import record_decision
from umit_pacs.store.studies import create_input_set

GREY = np.full((32, 24), 500, np.uint16)
MR_RULE = """
# heads only
[[rules]]
name = "heads"
when = [{ field = "Modality", op = "equals", value = "MR" }]
[rules.action]
report = true
destinations = ["PACS"]
"""
EVERYTHING_HELD = """
[[rules]]
name = "hold-everything"
matches_everything = true
[rules.action]
report = true
mode = "hold"
destinations = ["sender"]
"""


@pytest.fixture
def node(tmp_path):
    """A node's folder with a catalogue that knows one PACS."""
    folder = tmp_path / "node"
    folder.mkdir()
    (folder / "node.toml").write_text('[store]\nfolder = "data"\n', encoding="utf-8")
    url = f"sqlite:///{folder / 'data' / 'catalogue.sqlite'}"
    migrate(url)
    with closing(open_catalogue(url)) as catalogue:
        add_peer(catalogue, Peer(name="PACS", ae_title="ARCHIVE", host="127.0.0.1", port=104, receives_results=True))
        yield folder, catalogue


@pytest.fixture
def run(node):
    """Run `umit-pacs rules ...` on that node."""
    app = typer.Typer()
    rules_commands.register(app)

    def invoke(*arguments):
        config = ["--config", str(node[0] / "node.toml")] if arguments[0] != "fields" else []
        return CliRunner().invoke(app, ["rules", *map(str, arguments), *config])

    return invoke


@pytest.fixture
def write(tmp_path):
    def write_rules(text, name="rules.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_rules


def facts_of(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refusal(result):
    assert isinstance(result.exception, InvalidConfiguration), result.output
    return result.exception.detail


def record(node, paths, study_uid):
    """Take the files into the node's store, assemble and route them."""
    folder, catalogue = node
    files = PayloadFiles(folder / "data")
    instances = []
    for path in paths:
        header = read_header(path)
        relative = f"instances/{path.name}"
        sha256, size = files.write_durably(relative, [path.read_bytes()])
        instances.append(
            StoredInstance(
                study_instance_uid=StudyUID(study_uid),
                series_instance_uid=SeriesUID(header.SeriesInstanceUID),
                sop_instance_uid=InstanceUID(header.SOPInstanceUID),
                sop_class_uid=header.SOPClassUID,
                transfer_syntax_uid=header.file_meta.TransferSyntaxUID,
                calling_ae_title="ARCHIVE",
                called_ae_title="UMIT",
                peer_host="127.0.0.1",
                sha256=sha256,
                size_bytes=size,
                relative_path=relative,
                received_at=utc_now(),
            )
        )
    input_set = InputSet(
        input_set_id=sha256[:32],
        study_instance_uid=StudyUID(study_uid),
        instances=tuple(instances),
        calling_ae_title="ARCHIVE",
        completed_by=CompletionReason.QUIET_PERIOD,
    )
    record_instances(catalogue, instances)
    assert create_input_set(catalogue, input_set)
    decision = route(input_set, parse_rules(default_rules_text()), 1, files)
    record_decision(catalogue, name_destinations(catalogue, decision, input_set))
    return input_set, files


@pytest.fixture
def history(node, tmp_path):
    """Two studies on record: a radiograph and a CT."""
    one, other = Study(description=""), Study(description="")
    return [
        record(node, [write_cr_image(tmp_path / "cr", GREY, study=one)], one.study_instance_uid),
        record(node, write_ct_series(tmp_path / "ct", chest_like_ct(slices=5), study=other), other.study_instance_uid),
    ]


def test_a_file_that_is_not_there_is_named_and_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidConfiguration, match=r"absent\.toml cannot be read: No such file"):
        rules_commands.publish(tmp_path / "absent.toml")
    assert not list(tmp_path.iterdir())


def test_published_rules_come_back_as_they_were(run, write):
    assert facts_of(run("publish", write(MR_RULE), "--comment", "first", "--author", "admin", "--json")) == {
        "version": 1
    }
    assert run("export").stdout == MR_RULE


def test_export_writes_a_file_that_can_be_published(run, write, tmp_path):
    run("publish", write(MR_RULE))
    copy = tmp_path / "copy.toml"
    run("export", "--output", copy)
    assert facts_of(run("publish", copy, "--json")) == {"version": 1}


def test_rollback_puts_an_earlier_version_in_force_and_keeps_the_history(run, write):
    run("publish", write(MR_RULE), "--author", "a")
    run("publish", write(EVERYTHING_HELD), "--author", "b", "--comment", "hold")
    assert facts_of(run("rollback", "1", "--author", "c", "--json")) == {"version": 3}
    assert run("export").stdout == MR_RULE
    assert run("export", "--version", "2").stdout == EVERYTHING_HELD
    versions = facts_of(run("history", "--json"))
    assert [(v["version"], v["author"], v["comment"]) for v in versions] == [
        (3, "c", "back to version 1"),
        (2, "b", "hold"),
        (1, "a", ""),
    ]
    assert "hold" in run("history").stdout


def test_a_version_that_does_not_exist_is_refused(run, write):
    run("publish", write(MR_RULE))
    assert "no version 9" in refusal(run("rollback", "9"))
    assert "no version 9" in refusal(run("export", "--version", "9"))


def test_export_before_anything_is_published_says_so(run):
    assert "no rules are published" in refusal(run("export"))


def test_wrong_rules_are_not_published(run, write):
    wrong = write(MR_RULE.replace("PACS", "PACK"))
    assert "rule heads: rules[0].action.destinations: there is no peer 'PACK'" in refusal(run("publish", wrong))
    assert facts_of(run("history", "--json")) == []


def test_a_version_that_names_a_removed_checkpoint_is_not_put_back(run, write, node):
    folder = node[0] / "data" / "checkpoints" / "umit-own"
    folder.mkdir(parents=True)
    run("publish", write(MR_RULE.replace("report = true", 'report = true\ncheckpoint = "umit-own"')))
    run("publish", write(MR_RULE))
    folder.rmdir()
    assert "no checkpoint 'umit-own'" in refusal(run("rollback", "1"))


def test_check_counts_the_rules_and_says_what_looks_wrong(run, write):
    facts = facts_of(run("check", write(EVERYTHING_HELD + MR_RULE), "--json"))
    assert facts["rules"] == 2
    assert facts["doubts"] == ["heads is never reached: hold-everything before it matches everything"]
    assert "never reached" in run("check", write(EVERYTHING_HELD + MR_RULE)).stdout


def test_check_refuses_a_file_that_is_not_there(run, tmp_path):
    assert "rules.toml" in refusal(run("check", tmp_path / "rules.toml"))


def test_check_without_a_catalogue_says_that_peers_are_not_checked(tmp_path, write):
    app = typer.Typer()
    rules_commands.register(app)
    config = tmp_path / "node.toml"
    config.write_text("", encoding="utf-8")
    result = CliRunner().invoke(app, ["rules", "check", str(write(MR_RULE)), "--config", str(config)])
    assert result.exit_code == 0
    assert "not checked" in result.stderr
    assert not (tmp_path / "data").exists()


def test_list_and_show_print_the_rules_in_force(run, write):
    run("publish", write(EVERYTHING_HELD + MR_RULE))
    assert [rule["name"] for rule in facts_of(run("list", "--json"))["rules"]] == ["hold-everything", "heads"]
    assert "heads" in run("list").stdout
    assert parse_rules(run("show", "heads").stdout) == parse_rules(MR_RULE)
    assert facts_of(run("show", "heads", "--json"))["name"] == "heads"
    assert "there are hold-everything, heads" in refusal(run("show", "hearts"))


def test_list_shows_the_shipped_rules_where_none_are_published(run):
    result = run("list", "--json")
    assert facts_of(result)["version"] == 0
    assert "shipped" in result.stderr


def test_fields_lists_what_can_be_asked(run):
    names = {field["name"] for field in facts_of(run("fields", "--json"))}
    assert {"Modality", "is_volume", "calling_ae_title", "age_years"} <= names
    assert "Modality" in run("fields").stdout


def test_try_prints_the_decision_and_every_condition(run, write, tmp_path):
    write_cr_image(tmp_path / "study", GREY, study=Study(description=""))
    (tmp_path / "study" / "notes.txt").write_text("no DICOM", encoding="utf-8")
    result = run("test", tmp_path / "study", "--file", write(MR_RULE))
    assert result.exit_code == 0
    assert "no rule matches" in result.stdout
    assert "✗" in result.stdout
    assert "notes.txt" in result.stderr
    (facts,) = facts_of(run("test", tmp_path / "study", "--json"))
    assert facts["rule"] == "chest-radiograph"
    assert facts["reasons"][0] == {
        "rule": "chest-radiograph",
        "condition": "series Modality is_one_of CR, DX",
        "is_met": True,
        "found": "CR",
        "depth": 0,
    }
    assert facts["facts_text"]["values"]["modalities_in_study"] == ["CR"]


def test_try_takes_the_calling_ae_title_as_given(run, write, tmp_path):
    image = write_cr_image(tmp_path / "study", GREY, study=Study())
    rules = write(
        MR_RULE.replace('"Modality", op = "equals", value = "MR"', '"calling_ae_title", op = "equals", value = "ER"')
    )
    (facts,) = facts_of(run("test", image, "--file", rules, "--calling-ae-title", "ER", "--json"))
    assert facts["rule"] == "heads"


def test_try_without_a_dicom_file_fails(run, tmp_path):
    (tmp_path / "notes.txt").write_text("no DICOM", encoding="utf-8")
    assert isinstance(run("test", tmp_path / "notes.txt").exception, NoUsableFrames)


def test_replay_with_the_same_rules_changes_nothing(run, write, history):
    run("publish", write(default_rules_text()))
    replayed = facts_of(run("replay", "--json"))
    assert [(item["before"], item["after"], item["differences"]) for item in replayed] == [
        ("chest-radiograph", "chest-radiograph", []),
        ("chest-ct", "chest-ct", []),
    ]
    assert "2 studies decided again, 0 would change" in run("replay").stdout


def test_replay_shows_what_other_rules_would_have_done(run, write, history):
    replayed = facts_of(run("replay", "--file", write(EVERYTHING_HELD), "--json"))
    assert [item["after"] for item in replayed] == ["hold-everything", "hold-everything"]
    assert "rule: chest-radiograph -> hold-everything" in replayed[0]["differences"]
    assert "mode: send -> hold" in replayed[0]["differences"]
    assert (
        "orders: report 1, classification 1, detection 5, landmark 1, vqa 3 -> report 1" in replayed[0]["differences"]
    )
    assert not [d for d in replayed[0]["differences"] if d.startswith("destinations")]


def test_replay_goes_back_as_far_as_it_is_told(run, write, history):
    (item,) = facts_of(run("replay", "--last", "1", "--json"))
    assert item["before"] == "chest-ct"


def test_replay_works_from_the_decision_when_the_files_are_gone(run, write, history):
    expected = facts_of(run("replay", "--file", write(EVERYTHING_HELD), "--json"))
    for input_set, files in history:
        for instance in input_set.instances:
            files.path(instance.relative_path).unlink()
    assert facts_of(run("replay", "--file", write(EVERYTHING_HELD), "--json")) == expected


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (EVERYTHING_HELD, 0, "1 rule, nothing wrong"),
        ("rules = 3", 2, "rules: Input should be"),
        (None, 2, "rules.toml"),
    ],
)
def test_exit_status_and_one_clear_line_as_a_script_sees_them(tmp_path, content, status, words):
    path = tmp_path / "rules.toml"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    command = [sys.executable, "-m", "umit_pacs", "rules", "check", str(path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == status
    assert words in " ".join((done.stdout + done.stderr).split())
    assert "Traceback" not in done.stderr
