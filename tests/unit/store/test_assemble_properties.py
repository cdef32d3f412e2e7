"""Whatever the order, the pauses and the crashes: every image ends in the newest input set of its study, once."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import ComprehensiveSRStorage, CTImageStorage

from tests.store_fixtures import PROCESSES, after, stored_instance
from tests.unit.store.test_assemble import SETTINGS, Ward
from umit_pacs.states import InputSetState
from umit_pacs.steps.assemble import assemble_due
from umit_pacs.store.database import migrate, open_catalogue
from umit_pacs.store.files import PayloadFiles
from umit_pacs.store.instances import record_instances, studies_waiting
from umit_pacs.store.stories import story
from umit_pacs.store.studies import input_set, newest_input_set

#: (study, number, is an image, seconds since the one before)
arrivals = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 5), st.booleans(), st.sampled_from([0.0, 0.5, 3.0, 11.0])), max_size=12
)


@pytest.fixture(scope="module")
def ward(tmp_path_factory):
    """One ward for all examples; each has studies of its own."""
    folder = tmp_path_factory.mktemp("ward")
    url = f"sqlite:///{folder}/catalogue.sqlite"
    migrate(url)
    with closing(open_catalogue(url)) as catalogue:
        yield Ward(catalogue, PayloadFiles(folder / "store"))


@settings(max_examples=25)
@given(arrivals=arrivals)
def test_every_image_ends_in_the_newest_set_of_its_study(ward, arrivals):
    example, clock = f"2.25.{uuid4().int}", 0.0
    images = {f"{example}.{study}": set() for study in (1, 2, 3)}
    for number_of_study, number, is_image, pause_s in arrivals:
        clock += pause_s
        ward.assemble(clock)
        # The first of two instances under one UID stays, so the UID says which kind it is.
        study, series = f"{example}.{number_of_study}", 1 + is_image
        sop_class_uid = CTImageStorage if is_image else ComprehensiveSRStorage
        sent = ward.send(number, study=study, series=series, at=clock, sop_class_uid=sop_class_uid)
        if is_image:
            images[study].add(sent.sop_instance_uid)
    ward.assemble(clock + 11)
    assert ward.assemble(clock + 11) == ()
    assert studies_waiting(ward.catalogue) == ()
    for study, uids in images.items():
        _assert_chain(ward.catalogue, study, uids)


def _assert_chain(catalogue, study, image_uids):
    """The sets of a study grow, each names the one before, and the newest holds all."""
    newest = newest_input_set(catalogue, study)
    if not image_uids:
        assert newest is None
        return
    held = [{image.sop_instance_uid for image in newest.instances}]
    assert held[0] == image_uids
    while newest.predecessor_id is not None:
        newest = input_set(catalogue, newest.predecessor_id)
        held.append({image.sop_instance_uid for image in newest.instances})
        assert held[-1] < held[-2]
    assert len(held) == len(story(catalogue, study).input_sets)


def _assemble_until_killed(url, root, has_begun):
    has_begun.set()
    with closing(open_catalogue(url)) as catalogue:
        while True:
            assemble_due(
                catalogue, SETTINGS, now=after(10), count_instances=lambda *_: None, files=PayloadFiles(Path(root))
            )


def test_an_assembler_killed_at_any_moment_leaves_each_study_whole(catalogue, catalogue_url, tmp_path):
    files = PayloadFiles(tmp_path / "store")
    ward, studies = Ward(catalogue, files), [f"2.25.{number}" for number in range(12)]
    context = PROCESSES
    has_begun = context.Event()
    for study in studies[:1]:
        ward.send(1, study=study)
    process = context.Process(target=_assemble_until_killed, args=(catalogue_url, str(files.root), has_begun))
    process.start()
    try:
        assert has_begun.wait(60)
        for study in studies[1:]:
            ward.send(1, study=study)
            record_instances(catalogue, [stored_instance(2, study=study, sop_class_uid=ComprehensiveSRStorage)])
    finally:
        process.kill()
        process.join(60)
    ward.assemble(10)
    assert studies_waiting(catalogue) == ()
    for study in studies:
        (only,) = story(catalogue, study).input_sets
        assert (only.state, only.instances) == (InputSetState.ASSEMBLED, 1)
        assert [change.state for change in only.changes] == [InputSetState.ASSEMBLED]
