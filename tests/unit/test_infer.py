"""infer brings the model's places back to the source, and every order gets a result with its reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.model_fixtures import radiograph, tiny_engine, tiny_folder, volume  # noqa: F401
from tests.tiny_checkpoint import IMAGE_PX, tiny_answers
from umit_pacs.handoffs import Prepared, RegionKind, SeriesExclusion, SeriesUID, Task
from umit_pacs.steps.infer import infer, task_result
from umit_pacs.store.payload import from_json, to_json
from umit_pacs.umit_model.model_answer import ModelAnswer, ModelRegion
from umit_pacs.vocabulary import load_templates

TEMPLATES = load_templates()
DX = [order for order, _, modality, _ in tiny_answers() if modality == "DX"]
CT = [
    replace(order, series_instance_uid=SeriesUID("1.9")) for order, _, modality, _ in tiny_answers() if modality == "CT"
]


def box(points, *, kind=RegionKind.BOX, image_index=0):
    region = ModelRegion(kind=kind, label="nodule", image_index=image_index, points=points, confidence=0.5)
    is_flat = kind is RegionKind.BOX
    return ModelAnswer(
        order=DX[0],
        answer_text="x",
        regions=(region,),
        presence="present",
        confidence=0.9,
        images_shown=(image_index,) if is_flat else (),
    )


def test_every_order_has_its_result_in_order(tiny_engine):  # noqa: F811
    excluded = SeriesExclusion(series_instance_uid=SeriesUID("1.7"), reason="undecodable_pixels", detail="RLE")
    lost = [replace(DX[0], series_instance_uid=SeriesUID(uid)) for uid in ("1.7", "1.8")]
    prepared = Prepared(
        series={
            SeriesUID("1.2"): radiograph(),
            SeriesUID("1.9"): replace(volume(), series_instance_uid=SeriesUID("1.9")),
        },
        excluded=(excluded,),
    )
    orders = [lost[0], CT[0], *DX, lost[1], *CT[1:]]
    findings = infer("set", orders, prepared, tiny_engine, TEMPLATES)
    assert [result.order for result in findings.results] == orders
    assert findings.results[0].abstention.reason == "undecodable_pixels"
    assert findings.results[0].abstention.detail == "RLE"
    assert findings.results[len(DX) + 2].abstention.reason == "not_prepared"
    assert findings.excluded == (excluded,)
    assert findings.model == tiny_engine.identity
    assert set(findings.timings_s) == {"answered_s"}
    ct_report = findings.results[1]
    assert ct_report.frames == volume().volume.sources
    assert findings.results[2].frames == (radiograph().images[0].source,)
    assert from_json(type(findings), to_json(findings)) == findings


def test_the_models_box_lands_on_the_source(tiny_engine):  # noqa: F811
    wanted = next(order for order in DX if order.task is Task.DETECTION and order.target == "nodule")
    prepared = Prepared(series={SeriesUID("1.2"): radiograph()})
    (result,) = infer("set", [wanted], prepared, tiny_engine, TEMPLATES).results
    (region,) = result.regions
    # Thousandths of the prepared image, which is the source at half size.
    expected = np.array([[219, 304], [475, 683]]) / 1000 * IMAGE_PX * 2
    np.testing.assert_allclose(region.points_xy_px, expected)
    assert region.frames == (radiograph().images[0].source,)


def test_a_box_in_a_volume_names_the_frames_it_spans_and_its_corners():
    answer = box(((4.0, 6.0, 1.0), (10.0, 20.0, 3.0)), kind=RegionKind.BOX_3D)
    (region,) = task_result(answer, volume()).regions
    assert region.points_xy_px == ((8.0, 12.0), (20.0, 40.0))
    assert region.frames == volume().volume.sources[2:6]
    np.testing.assert_allclose(region.corners_mm, [(4.0, 6.0, 6.0), (10.0, 20.0, 18.0)])


def test_a_place_in_the_margin_is_no_place():
    inside = box(((5.0, 5.0), (20.0, 30.0)))
    outside = box(((IMAGE_PX + 1.0, 5.0), (IMAGE_PX + 9.0, 30.0)))
    assert task_result(inside, radiograph()).abstention is None
    refused = task_result(outside, radiograph())
    assert refused.abstention.reason == "outside_the_image"
    assert (refused.regions, refused.presence, refused.confidence) == ((), "", None)
    some = task_result(replace(inside, regions=inside.regions + outside.regions), radiograph())
    assert len(some.regions) == 1
    assert some.repairs == ("place_outside_dropped",)


def test_a_box_that_is_hardly_ever_right_is_not_marked():
    likely, unlikely = box(((5.0, 5.0), (20.0, 30.0))), box(((30.0, 5.0), (40.0, 30.0)))
    unlikely = replace(unlikely, regions=tuple(replace(region, confidence=0.04) for region in unlikely.regions))
    some = task_result(replace(likely, regions=likely.regions + unlikely.regions), radiograph())
    assert len(some.regions) == 1
    assert some.repairs == ("unlikely_place_dropped",)
    none = task_result(replace(unlikely, presence=""), radiograph())
    assert (none.regions, none.presence, none.abstention) == ((), "uncertain", None)
    assert none.confidence == pytest.approx(1 - unlikely.confidence)
    stated = task_result(unlikely, radiograph())
    assert (stated.regions, stated.presence, stated.confidence) == ((), "present", unlikely.confidence)


def test_a_place_in_the_second_image_refers_to_its_frame():
    answer = box(((5.0, 5.0), (20.0, 30.0)), image_index=1)
    result = task_result(answer, radiograph(2))
    assert result.regions[0].frames == (radiograph(2).images[1].source,)
    assert result.frames == (radiograph(2).images[1].source,)


def test_a_volume_box_without_a_volume_is_a_defect():
    with pytest.raises(ValueError, match="no volume"):
        task_result(box(((0, 0, 0), (1, 1, 1)), kind=RegionKind.BOX_3D), radiograph())
