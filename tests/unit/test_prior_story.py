"""What `umit-pacs why` says of the search for an earlier study."""

from dataclasses import replace
from datetime import date

from tests.store_fixtures import stored_instance
from tests.unit.test_comparison import reading, search_of
from umit_pacs.cli.prior_story import prior_events
from umit_pacs.prior_studies import PriorState, PriorStudy

READ = reading({"nodule": "left", "pleural_effusion": "outside_training"})
STUDY = PriorStudy(
    study_instance_uid=READ.study_instance_uid,
    study_date=READ.study_date,
    peer="pacs",
    fetched_by="get",
    instances=(stored_instance(1), stored_instance(2)),
)


def last_of(search):
    *_, (_, text, details) = prior_events(search)
    return text, details


def test_a_study_that_was_read_is_told_with_the_answers():
    text, details = last_of(search_of(READ, peer="pacs", study=STUDY))
    assert text == (
        "The earlier study of 2025-06-01 (…2.25.90, at pacs), of which 2 images (0.0 MB) came by C-GET, "
        "was read by the same model and is compared."
    )
    assert [detail.split(": ")[1] for detail in details] == [
        "nodule present, left",
        "pleural effusion not assessed (outside training)",
    ]


def test_images_that_were_here_before_are_told_as_such():
    text, _ = last_of(search_of(READ, peer="pacs", study=replace(STUDY, fetched_by="here")))
    assert "2 images (0.0 MB) were here before," in text


def test_what_is_not_compared_is_told_with_the_reason():
    chosen = search_of(study_date=date(2025, 6, 1), study_instance_uid="2.25.90", peer="pacs", reason="too_late")
    assert last_of(chosen) == (
        "The earlier study of 2025-06-01 (…2.25.90, at pacs) is not compared: "
        "its images did not come within priors.time_limit_s.",
        (),
    )
    nobody = search_of(reason="peer_unavailable", detail="PACS1 does not answer.")
    assert last_of(nobody)[0] == "An earlier study is not compared: peer unavailable (PACS1 does not answer)."


def test_a_search_that_goes_on_is_told_as_one():
    assert last_of(search_of(state=PriorState.WANTED))[0] == "An earlier study is still being looked for."
