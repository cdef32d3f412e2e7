"""`bench infer` asks what the checkpoint knows, in both ways, and says what it measured."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import torch
from rich.console import Console

from tests.model_fixtures import radiograph, tiny_folder, tiny_settings, volume  # noqa: F401
from tests.tiny_checkpoint import tiny_manifest
from umit_pacs.cli.bench_infer import STUDIES, _time_many, bench_infer, infer_tables
from umit_pacs.cli.bench_plain import PlainModel
from umit_pacs.cli.bench_tasks import task_set
from umit_pacs.handoffs import Language, Task
from umit_pacs.settings import Settings
from umit_pacs.umit_model.engine import LocalEngine
from umit_pacs.umit_model.loader import load_model
from umit_pacs.vocabulary import load_templates

TEMPLATES = load_templates()


def test_the_whole_task_set_is_timed_in_both_ways_and_told(tiny_folder):  # noqa: F811
    settings = Settings(model=tiny_settings(tiny_folder))
    times = bench_infer(settings, runs=1, most_studies=2, kinds=STUDIES[:1])
    (study,) = times.studies
    assert study.orders == len(task_set(TEMPLATES.by_key("chest_radiograph"), "CR", Language.ENGLISH, tiny_manifest()))
    assert study.tokens > study.orders
    assert study.ratio == pytest.approx(study.plain_s / study.engine_s)
    assert [many.rows for many in times.many] == [study.orders, 2 * study.orders]
    assert (times.largest_batch, times.is_memory_full) == (2 * study.orders, False)
    assert all(0.0 < many.peak_share for many in times.many)
    assert [waiting.in_hand for waiting in times.waiting] == [1, settings.serve.studies_in_hand]
    assert all(waiting.cpu_s_per_study > 0 for waiting in times.waiting)
    facts = asdict(times)
    assert facts["studies"][0]["same_answers"] <= study.orders
    assert times.adapter_switch_ms is not None
    console = Console(width=100, record=True)
    for table in infer_tables(times):
        console.print(table)
    text = console.export_text()
    assert "plain over engine" in text
    assert f"2 radiographs at once, {2 * study.orders} rows" in text
    assert f"{2 * study.orders} rows, no more were tried" in text
    assert f"2 radiographs from file, {settings.serve.studies_in_hand} in hand" in text


def test_the_largest_batch_is_what_memory_held(tiny_folder):  # noqa: F811
    loaded = load_model(tiny_settings(tiny_folder), tiny_folder.parent)
    orders = task_set(TEMPLATES.by_key("chest_radiograph"), "DX", Language.ENGLISH, loaded.manifest)
    held = len(orders) + 1

    def short_of_memory(layer, args):
        if args[0].shape[0] > held:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    loaded.network.model.language_model.layers[0].register_forward_pre_hook(short_of_memory)
    many, largest = _time_many(loaded, radiograph(), orders, TEMPLATES, 8)
    assert [one.studies for one in many] == [1]
    assert largest == len(orders)


def test_only_what_the_checkpoint_was_trained_for_is_asked():
    manifest = tiny_manifest()
    only = manifest.model_copy(update={"profiles": tuple(p for p in manifest.profiles if p.task is Task.VQA)})
    orders = task_set(TEMPLATES.by_key("chest_ct"), "CT", Language.CHINESE, only)
    assert {order.task for order in orders} == {Task.VQA}
    assert task_set(TEMPLATES.by_key("chest_ct"), "US", Language.CHINESE, manifest) == []


@pytest.mark.parametrize("modality", ["DX", "CT"])
def test_the_reference_gives_the_engines_answers(tiny_folder, modality):  # noqa: F811
    loaded = load_model(tiny_settings(tiny_folder), tiny_folder.parent)
    convolution = loaded.network.model.visual.patch_embed.proj
    plain = PlainModel(loaded, convolution)
    engine = LocalEngine(loaded, input_checks={}, maximum_batch=8)
    ours = loaded.network.model.visual.patch_embed.proj
    assert ours is not convolution
    key, series = ("chest_ct", volume()) if modality == "CT" else ("chest_radiograph", radiograph())
    orders = [
        replace(order, series_instance_uid=series.series_instance_uid)
        for order in task_set(TEMPLATES.by_key(key), modality, Language.ENGLISH, loaded.manifest)
    ]
    answers = plain.answer(series, orders, TEMPLATES)
    assert loaded.network.model.visual.patch_embed.proj is ours
    # Answers that the grammar had to mend, or would not give, may differ; the others are the same.
    for answer, reference in zip(engine.answer(series, orders, TEMPLATES), answers, strict=True):
        if answer.abstention is None and not answer.repairs:
            assert answer.answer_text == reference.text
