"""Published folders become checkpoints: every layout gives the same answers, and nothing doubtful is taken."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from tests.model_fixtures import radiograph, tiny_engine, tiny_folder, tiny_settings, volume  # noqa: F401
from tests.published_fixtures import (
    TASK_FOLDERS,
    rewrite_weights,
    write_adapter,
    write_full_weights,
    write_random_family,
    write_umit_folder,
)
from tests.tiny_checkpoint import IMAGE_PX, SLICES, tiny_answers, write_tiny_checkpoint
from umit_pacs.cli import models
from umit_pacs.errors import CheckpointInvalid, InvalidConfiguration
from umit_pacs.handoffs import Task
from umit_pacs.umit_model.checkpoint import verify
from umit_pacs.umit_model.engine import load_engine
from umit_pacs.umit_model.import_profile import SHIPPED_PROFILES, ImportProfile, read_profile
from umit_pacs.umit_model.instructions import instruction
from umit_pacs.umit_model.loader import load_model
from umit_pacs.umit_model.published import install_published
from umit_pacs.vocabulary import load_templates

TEMPLATES = load_templates()
ADAPTER = "VQA/adapter_model.safetensors"
BASE_WEIGHTS = "UMIT-B/model.safetensors"
A_WEIGHT = "model.layers.1.self_attn.q_proj.weight"


def profile_like_tiny() -> ImportProfile:
    """UMIT's profile with the tiny checkpoint's sizes and frames, and a folder of its own for boxes in volumes."""
    umit = read_profile(SHIPPED_PROFILES / "umit.toml")
    looks = {
        name: look.model_copy(
            update={
                "pixels": replace(
                    look.pixels, width=IMAGE_PX, height=IMAGE_PX, slices=SLICES if name == "volume" else None
                )
            }
        )
        for name, look in umit.looks.items()
    }
    tasks = [
        source.model_copy(
            update={
                "frame": f"voxel:{SLICES}x{IMAGE_PX}x{IMAGE_PX}" if source.task is Task.DETECTION_3D else "norm1000",
                "folder": "Volume_Detection" if source.task is Task.DETECTION_3D else source.folder,
                "maximum_new_tokens": 64,
                "maximum_images": 1,
            }
        )
        for source in umit.tasks
    ]
    limits = {"minimum_pixels": 28 * 28, "maximum_pixels": 224 * 224}
    return umit.model_copy(update={"looks": looks, "tasks": tuple(tasks)} | limits)


@pytest.fixture(scope="module")
def random_tiny(tmp_path_factory) -> Path:
    """A tiny checkpoint that was fitted to nothing; read only."""
    folder = tmp_path_factory.mktemp("random") / "tiny"
    write_tiny_checkpoint(folder, steps=0)
    return folder


@pytest.fixture
def umit(random_tiny, tmp_path) -> Path:
    """A published folder of random weights that the test may damage."""
    return write_umit_folder(random_tiny, tmp_path / "UMIT")


def orders_for(modality: str):
    return [order for order, _, of, _ in tiny_answers() if of == modality]


def answers_of(engine) -> list:
    """One answer per task about a radiograph and a volume, in both languages in turn."""
    answers = []
    for series, modality in ((radiograph(), "DX"), (volume(), "CT")):
        by_task = {order.task: order for order in orders_for(modality)[:: 1 if modality == "CT" else -1]}
        answers += engine.answer(series, list(by_task.values()), TEMPLATES)
    return answers


def assert_same(answers, others) -> None:
    """The same words, options and places; confidences as near as the order of additions leaves them."""
    for one, other in zip(answers, others, strict=True):
        assert one.answer_text == other.answer_text
        assert (one.abstention, one.option_index, one.presence) == (
            other.abstention,
            other.option_index,
            other.presence,
        )
        assert [region.points for region in one.regions] == [region.points for region in other.regions]
        assert one.confidence == pytest.approx(other.confidence, abs=1e-5)


# --- layouts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("is_old", "shards"), [(True, 1), (True, 3), (False, 1)])
def test_old_and_new_layouts_whole_or_in_shards_give_the_same_answers(
    tiny_folder,  # noqa: F811
    tiny_engine,  # noqa: F811
    tmp_path,
    is_old,
    shards,
):
    source = write_umit_folder(tiny_folder, tmp_path / "UMIT", is_old=is_old, shards=shards)
    write_adapter(tiny_folder / "adapters/detection_3d", source / "Volume_Detection", is_old=is_old)
    installed = tmp_path / "checkpoints"
    (manifest,) = install_published(source, installed, profile=profile_like_tiny())
    assert verify(installed / "umit") == manifest
    engine = load_engine(tiny_settings(installed / "umit"), installed)
    assert_same(answers_of(engine), answers_of(tiny_engine))


def test_the_five_repositories_become_one_checkpoint_with_umits_own_frames(umit, tmp_path):
    (manifest,) = install_published(umit, tmp_path / "checkpoints")
    assert manifest.name == "umit"
    assert set(manifest.tasks) == set(Task)
    assert set(manifest.adapters) == {folder.lower() for folder in TASK_FOLDERS}
    frames = {profile.task: profile.frame for profile in manifest.profiles}
    assert frames[Task.DETECTION] == "absolute:1024x1024"
    assert frames[Task.DETECTION_3D] == "voxel:32x256x256"
    assert frames[Task.LANDMARK] == "absolute:600x800"
    report = manifest.profile(Task.REPORT, "DX")
    assert (report.maximum_images, report.image.width) == (2, 756)
    assert manifest.profile(Task.REPORT, "CT").image.slices == 32
    size = load_model(tiny_settings(tmp_path / "checkpoints/umit"), tmp_path).processor.image_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == (3136, 602112)
    assert not [name for name in manifest.files if "args" in name or "README" in name or name.endswith(".bin")]


def test_full_weights_of_a_task_become_a_checkpoint_of_its_own(tiny_folder, tiny_engine, tmp_path):  # noqa: F811
    source = write_umit_folder(tiny_folder, tmp_path / "UMIT")
    shutil.rmtree(source / "Classification")
    write_full_weights(tiny_folder, source / "Classification", adapter="classification")
    write_adapter(tiny_folder / "adapters/detection_3d", source / "Volume_Detection")
    installed = tmp_path / "checkpoints"
    both = install_published(source, installed, profile=profile_like_tiny())
    assert [manifest.name for manifest in both] == ["umit", "umit-classification"]
    assert Task.CLASSIFICATION not in both[0].tasks
    assert (both[1].tasks, both[1].adapters) == ((Task.CLASSIFICATION,), ())
    orders = [order for order in orders_for("DX") if order.task is Task.CLASSIFICATION]
    expected = tiny_engine.answer(radiograph(), orders, TEMPLATES)
    engine = load_engine(tiny_settings(installed / "umit-classification"), installed)
    for answer, other in zip(engine.answer(radiograph(), orders, TEMPLATES), expected, strict=True):
        assert (answer.answer_text, answer.option_index) == (other.answer_text, other.option_index)
        assert answer.confidence == pytest.approx(other.confidence, abs=1e-3)


# --- other families ----------------------------------------------------------------------------------------------


@pytest.fixture
def qwen_2_5(random_tiny, tmp_path) -> Path:
    return write_random_family("qwen2_5_vl", random_tiny / "base", tmp_path / "Qwen2.5-VL-Tiny")


def test_a_plain_qwen_2_5_folder_answers_as_transformers_alone_would(qwen_2_5, tmp_path):
    installed = tmp_path / "checkpoints"
    plain = read_profile(SHIPPED_PROFILES / "plain.toml")
    short = tuple(source.model_copy(update={"maximum_new_tokens": 12}) for source in plain.tasks)
    (manifest,) = install_published(qwen_2_5, installed, profile=plain.model_copy(update={"tasks": short}))
    assert (manifest.name, manifest.base_family, manifest.adapters) == ("qwen2.5-vl-tiny", "qwen2_5_vl", ())
    assert manifest.profile(Task.DETECTION, "DX").frame == "resized"
    engine = load_engine(tiny_settings(installed / manifest.name), installed)
    report = next(order for order in orders_for("DX") if order.task is Task.REPORT)
    series = radiograph()
    (answer,) = engine.answer(series, [report], TEMPLATES)
    assert answer.answer_text == _plain_answer(engine._loaded, series.images[0].pixels, report)


def _plain_answer(loaded, pixels: np.ndarray, order) -> str:
    processor, network = loaded.processor, loaded.network
    inputs = processor.image_inputs([pixels])
    question = instruction(order, TEMPLATES.by_key(order.template), modality="DX")
    prompt = processor.prompt(question, inputs["image_grid_thw"].tolist())
    ids = torch.tensor([processor.tokenizer(prompt, add_special_tokens=False)["input_ids"]])
    output = network.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=(ids == network.config.image_token_id).int(),
        max_new_tokens=12,
        do_sample=False,
        **inputs,
    )
    return processor.tokenizer.decode(output[0, ids.shape[1] :].tolist(), skip_special_tokens=False)


# --- what is refused ---------------------------------------------------------------------------------------------


def _changed_weights(folder: str, change):
    return lambda umit: rewrite_weights(umit / folder, change)


def _changed_json(name: str, **changes):
    def change(umit: Path) -> None:
        path = umit / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def _written(name: str, content: bytes = b"x"):
    def write(umit: Path) -> None:
        (umit / name).parent.mkdir(parents=True, exist_ok=True)
        (umit / name).write_bytes(content)

    return write


def _removed(name: str):
    def remove(umit: Path) -> None:
        shutil.rmtree(umit / name) if (umit / name).is_dir() else (umit / name).unlink()

    return remove


def _record_of_download(umit: Path) -> None:
    record = umit / "UMIT-B/.cache/huggingface/download/model.safetensors.metadata"
    record.parent.mkdir(parents=True)
    right = hashlib.sha256((umit / BASE_WEIGHTS).read_bytes()).hexdigest()
    record.write_text(f"0123456789abcdef\n{right[::-1]}\n1742428800.0\n")


def _link(umit: Path) -> None:
    (umit / "VQA/adapter_model.safetensors").rename(umit.parent / "blob")
    os.symlink(umit.parent / "blob", umit / "VQA/adapter_model.safetensors")


def _vision_adapter(state):
    return {key.replace("model.layers.", "visual.blocks."): value for key, value in state.items()}


REFUSED = {
    "missing task": (_removed("VQA"), r"UMIT/VQA: .*not there"),
    "missing base": (_removed("UMIT-B"), r"UMIT-B: no config\.json"),
    "missing weights": (_removed(BASE_WEIGHTS), r"UMIT-B: no model\.safetensors"),
    "missing weight": (
        _changed_weights("UMIT-B", lambda s: {k: v for k, v in s.items() if k != A_WEIGHT}),
        r"layers\.1\.self_attn\.q_proj\.weight is missing",
    ),
    "unexpected weight": (
        _changed_weights("UMIT-B", lambda s: s | {"visual.extra.weight": torch.ones(2)}),
        r"unexpected visual\.extra\.weight",
    ),
    "shape": (
        _changed_weights("UMIT-B", lambda s: s | {A_WEIGHT: s[A_WEIGHT][:64]}),
        r"q_proj\.weight is \(64, 128\), the model has \(128, 128\)",
    ),
    "number format": (
        _changed_weights("UMIT-B", lambda s: s | {A_WEIGHT: s[A_WEIGHT].to(torch.uint8)}),
        r"q_proj\.weight is stored as U8",
    ),
    "float16": (_changed_weights("UMIT-B", lambda s: {k: v.half() for k, v in s.items()}), "compute_format"),
    "broken weights": (_written(BASE_WEIGHTS, b"\x00" * 64), r"model\.safetensors"),
    "other model": (_changed_json("UMIT-B/config.json", model_type="llama"), "model_type 'llama'"),
    "other size": (_changed_json("UMIT-B/config.json", num_hidden_layers=3), r"layers\.2\..* is missing"),
    "code": (_changed_json("UMIT-B/config.json", auto_map={"AutoModel": "modeling.Evil"}), "auto_map"),
    "Python": (_written("UMIT-B/modeling_umit.py"), r"modeling_umit\.py: unexpected"),
    "pickled base": (_written("UMIT-B/pytorch_model.bin"), r"pytorch_model\.bin: pickled weights are never read"),
    "pickled adapter": (_written("VQA/adapter_model.bin"), r"adapter_model\.bin: pickled weights are never read"),
    "adapter without weights": (_removed(ADAPTER), r"VQA/adapter_model\.safetensors: not there"),
    "neither": (_removed("VQA/adapter_config.json"), r"VQA: neither adapter_config\.json"),
    "unknown file": (_written("VQA/extra.json", b"{}"), r"VQA/extra\.json: unexpected"),
    "unknown folder": (_written("Segmentation/config.json", b"{}"), r"Segmentation: unexpected"),
    "link": (_link, r"adapter_model\.safetensors: a link"),
    "changed download": (_record_of_download, r"model\.safetensors: changed"),
    "zero adapter": (_changed_weights("VQA", lambda s: {k: v * 0 for k, v in s.items()}), "VQA.*changes nothing"),
    "not finite": (_changed_weights("VQA", lambda s: {k: v * float("nan") for k, v in s.items()}), "not finite"),
    "adapter's layer": (
        _changed_weights("VQA", lambda s: {k: v for k, v in s.items() if ".layers.1." not in k}),
        r"VQA/.*layers\.1\.mlp\.down_proj\.lora_A\.weight is None, the model has",
    ),
    "adapter's shape": (_changed_weights("VQA", lambda s: {k: v[:2] for k, v in s.items()}), "the model has"),
    "vision adapter": (_changed_weights("VQA", _vision_adapter), "no LoRA weight of the language model"),
    "more than LoRA": (_changed_json("VQA/adapter_config.json", modules_to_save=["lm_head"]), "modules_to_save"),
    "alpha of no layer": (
        _changed_json("VQA/adapter_config.json", alpha_pattern={"model.layers.9.self_attn.q_proj": 3}),
        "fits no layer of the adapter",
    ),
    "no processor": (_removed("UMIT-B/preprocessor_config.json"), r"preprocessor_config\.json: not there"),
    "template": (
        _changed_json("UMIT-B/chat_template.json", chat_template="{{ messages[0]['role'] }}"),
        "does not show each image once",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_doubtful_folder_is_refused_by_the_name_of_what_is_wrong_and_leaves_nothing(umit, tmp_path, case):
    damage, complaint = REFUSED[case]
    damage(umit)
    with pytest.raises(CheckpointInvalid, match=complaint):
        install_published(umit, tmp_path / "checkpoints")
    assert not list((tmp_path / "checkpoints").glob("*"))


SHARD = "model-00002-of-00003.safetensors"
INDEX = "UMIT-B/model.safetensors.index.json"


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (_removed(f"UMIT-B/{SHARD}"), f"{SHARD}: named in the index and not there"),
        (_removed(INDEX), "without model.safetensors.index.json"),
        (
            lambda umit: shutil.copy(umit / "UMIT-B" / SHARD, umit / "UMIT-B/model-extra.safetensors"),
            r"model-extra\.safetensors: not named in the index",
        ),
        (_changed_json(INDEX, weight_map={A_WEIGHT: "../../etc/passwd"}), "no weight_map"),
    ],
    ids=["missing shard", "no index", "extra shard", "path"],
)
def test_shards_and_their_index_must_agree(random_tiny, tmp_path, damage, complaint):
    source = write_umit_folder(random_tiny, tmp_path / "UMIT", shards=3)
    damage(source)
    with pytest.raises(CheckpointInvalid, match=complaint):
        install_published(source, tmp_path / "checkpoints")


def test_an_index_that_names_the_wrong_shard_is_refused_by_the_weights_name(random_tiny, tmp_path):
    source = write_umit_folder(random_tiny, tmp_path / "UMIT", shards=3)
    content = json.loads((source / INDEX).read_text())
    wrong = next(
        name for name in sorted(set(content["weight_map"].values())) if name != content["weight_map"][A_WEIGHT]
    )
    content["weight_map"][A_WEIGHT] = wrong
    (source / INDEX).write_text(json.dumps(content))
    with pytest.raises(CheckpointInvalid, match=rf"{A_WEIGHT} in {wrong}, found in"):
        install_published(source, tmp_path / "checkpoints")


def test_full_weights_without_effect_are_refused(umit, random_tiny, tmp_path):
    shutil.rmtree(umit / "Classification")
    write_full_weights(random_tiny, umit / "Classification", adapter=None)
    with pytest.raises(CheckpointInvalid, match="Classification: its weights are those of the base"):
        install_published(umit, tmp_path / "checkpoints")


def test_float16_is_taken_where_the_profile_says_how_it_is_to_run(umit, tmp_path):
    rewrite_weights(umit / "UMIT-B", lambda state: {key: value.half() for key, value in state.items()})
    profile = read_profile(SHIPPED_PROFILES / "umit.toml").model_copy(update={"compute_format": "float32"})
    (manifest,) = install_published(umit, tmp_path / "checkpoints", profile=profile)
    assert manifest.compute_format == "float32"


def test_an_alpha_of_the_old_layout_scales_the_layer_that_it_names(random_tiny, tmp_path):
    changed = tmp_path / "UMIT"
    write_umit_folder(random_tiny, changed)
    _changed_json("VQA/adapter_config.json", alpha_pattern={"model.layers.1.self_attn.q_proj": 16})(changed)
    install_published(changed, tmp_path / "checkpoints")
    loaded = load_model(tiny_settings(tmp_path / "checkpoints/umit"), tmp_path)
    scales = {
        name: module.scaling["vqa"]
        for name, module in loaded.peft_model.named_modules()
        if hasattr(module, "lora_A") and "vqa" in module.lora_A
    }
    assert {scale for name, scale in scales.items() if not name.endswith("layers.1.self_attn.q_proj")} == {2.0}
    assert [scale for name, scale in scales.items() if name.endswith("layers.1.self_attn.q_proj")] == [4.0]


def test_a_tokenizer_without_a_mark_of_the_model_is_refused(umit, tmp_path):
    path = umit / "UMIT-B/tokenizer.json"
    path.write_text(path.read_text().replace("<|box_start|>", "<|bax_start|>"))
    config = umit / "UMIT-B/tokenizer_config.json"
    config.write_text(config.read_text().replace("<|box_start|>", "<|bax_start|>"))
    with pytest.raises(CheckpointInvalid, match=r"box_start.* is not one token"):
        install_published(umit, tmp_path / "checkpoints")


def test_vocabulary_and_merges_alone_make_a_tokenizer(umit, tmp_path):
    (umit / "UMIT-B/tokenizer.json").unlink()
    install_published(umit, tmp_path / "checkpoints")
    tokens = load_model(tiny_settings(tmp_path / "checkpoints/umit"), tmp_path).processor.tokenizer
    text = "Is there a mass? 有肿块吗? <|box_start|>(1,20)"
    assert tokens.decode(tokens.encode(text)) == text


def test_a_taken_name_is_kept_unless_it_is_to_be_replaced(umit, tmp_path):
    installed = tmp_path / "checkpoints"
    install_published(umit, installed)
    before = (installed / "umit/manifest.json").read_bytes()
    profile = read_profile(SHIPPED_PROFILES / "umit.toml").model_copy(update={"version": "2"})
    with pytest.raises(CheckpointInvalid, match="there already"):
        install_published(umit, installed, profile=profile)
    assert (installed / "umit/manifest.json").read_bytes() == before
    install_published(umit, installed, profile=profile, replace=True)
    assert verify(installed / "umit").version == "2"
    assert [path.name for path in installed.iterdir()] == ["umit"]


# --- profiles and the command ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nonsense = 1\n", "nonsense"),
        ('looks = "radiograph"\n', "looks"),
        ("[broken\n", "profile.toml"),
    ],
)
def test_a_wrong_profile_is_named_with_its_key(tmp_path, text, complaint):
    (tmp_path / "profile.toml").write_text(text)
    with pytest.raises(InvalidConfiguration, match=complaint):
        read_profile(tmp_path / "profile.toml")


def test_a_task_whose_look_is_not_there_is_refused(tmp_path):
    text = (SHIPPED_PROFILES / "plain.toml").read_text().replace("[looks.volume]", "[looks.stack]")
    (tmp_path / "profile.toml").write_text(text)
    with pytest.raises(InvalidConfiguration, match="wants the look 'volume'"):
        read_profile(tmp_path / "profile.toml")


@pytest.mark.parametrize("name", ["../outside", "Capitals", "x" * 65])
def test_a_name_that_is_no_folders_name_is_refused(umit, tmp_path, name):
    with pytest.raises(InvalidConfiguration, match="--name"):
        install_published(umit, tmp_path / "checkpoints", name=name)


def test_a_profile_that_shows_a_modality_in_two_ways_is_refused(umit, tmp_path):
    text = (SHIPPED_PROFILES / "umit.toml").read_text() + '\n[[tasks]]\ntask = "vqa"\nlooks = ["volume"]\n'
    (tmp_path / "profile.toml").write_text(text)
    with pytest.raises(InvalidConfiguration, match="two profiles for vqa of CT"):
        install_published(umit, tmp_path / "checkpoints", profile=read_profile(tmp_path / "profile.toml"))


def test_the_command_installs_a_published_folder_by_profile_and_name(umit, tmp_path):
    app = typer.Typer()
    models.register(app)

    @app.callback()
    def _group() -> None:
        pass

    (tmp_path / "node.toml").write_text('[store]\nfolder = "data"\n')
    text = (SHIPPED_PROFILES / "umit.toml").read_text().replace('version = "published"', 'version = "2025-03"')
    (tmp_path / "mine.toml").write_text(text)

    def install(*arguments: str):
        options = ["--config", str(tmp_path / "node.toml"), "--name", "ours"]
        return CliRunner().invoke(app, ["models", "install", *arguments, *options], env={"COLUMNS": "200"})

    done = install(str(umit), "--profile", str(tmp_path / "mine.toml"))
    assert done.exit_code == 0, done.output
    assert "Installed ours 2025-03" in done.stdout
    assert 'checkpoint = "ours"' in done.stdout
    again = install(str(tmp_path / "data/checkpoints/ours"))
    assert isinstance(again.exception, InvalidConfiguration)
