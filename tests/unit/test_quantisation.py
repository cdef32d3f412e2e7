"""Files of quantised weights are served as they are, and only where they are what the manifest says."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.model_fixtures import radiograph, tiny_folder, tiny_settings  # noqa: F401
from tests.tiny_checkpoint import tiny_answers, tiny_manifest
from training.quantise import write_quantised
from umit_pacs.errors import CheckpointInvalid, InvalidConfiguration
from umit_pacs.umit_model.checkpoint import Manifest, read_manifest, verify, write_manifest
from umit_pacs.umit_model.engine import load_engine
from umit_pacs.umit_model.loader import load_model
from umit_pacs.vocabulary import load_templates

TEMPLATES = load_templates()
LAYER = "model.layers.0.self_attn.q_proj"
WEIGHTS, CONFIG = "base/model.safetensors", "base/config.json"


@pytest.fixture(scope="module")
def quantised(tiny_folder, tmp_path_factory):  # noqa: F811
    """The tiny checkpoint with its weights in either form; read only."""
    place = tmp_path_factory.mktemp("quantised")
    for form in ("int8", "nf4"):
        write_quantised(tiny_folder, place / form, form)
    return place


@pytest.fixture
def own(quantised, tmp_path):
    """Copies that the test may damage."""
    return shutil.copytree(quantised, tmp_path / "own")


@pytest.mark.parametrize("form", ["int8", "nf4"])
def test_stored_quantised_weights_answer_as_those_that_are_quantised_when_they_are_loaded(
    tiny_folder,  # noqa: F811
    quantised,
    form,
):
    at_load = load_engine(tiny_settings(tiny_folder, quantisation=form), tiny_folder.parent)
    stored = load_engine(tiny_settings(quantised / form, quantisation="auto"), quantised)
    assert stored.identity.quantisation == form
    orders = [order for order, _, modality, _ in tiny_answers() if modality == "DX"]
    wanted = at_load.answer(radiograph(), orders, TEMPLATES)
    found = stored.answer(radiograph(), orders, TEMPLATES)
    assert [each.answer_text for each in found] == [each.answer_text for each in wanted]
    assert [each.confidence for each in found] == [each.confidence for each in wanted]


@pytest.mark.parametrize(("form", "number_format"), [("int8", "I8"), ("nf4", "U8")])
def test_the_files_hold_no_full_weights_of_what_is_quantised(tiny_folder, quantised, form, number_format):  # noqa: F811
    with safe_open(quantised / form / WEIGHTS, framework="pt") as reader:
        formats = {key: reader.get_slice(key).get_dtype() for key in reader.keys()}
    layers = {key for key in formats if ".layers." in key and key.endswith("proj.weight")}
    assert len(layers) == 2 * 7
    assert {formats[key] for key in layers} == {number_format}
    assert {formats[key] for key in formats if key.startswith("visual.")} == {"F32"}
    assert (quantised / form / WEIGHTS).stat().st_size < (tiny_folder / WEIGHTS).stat().st_size
    assert read_manifest(quantised / form).stored_quantisation == form


@pytest.mark.parametrize(("form", "wanted"), [("int8", "none"), ("nf4", "int8")])
def test_another_quantisation_than_the_stored_one_is_refused(quantised, form, wanted):
    with pytest.raises(InvalidConfiguration, match=f"holds its weights as {form}"):
        load_model(tiny_settings(quantised / form, quantisation=wanted), quantised)


def test_a_changed_byte_of_quantised_weights_is_found_before_anything_is_loaded(own):
    path = own / "nf4" / WEIGHTS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointInvalid, match=r"model\.safetensors: changed"):
        verify(own / "nf4")


def _plain(weights):
    return {name: value for name, value in weights.items() if not name.startswith(LAYER)} | {
        f"{LAYER}.weight": torch.zeros(128, 128),
        f"{LAYER}.bias": weights[f"{LAYER}.bias"],
    }


@pytest.mark.parametrize(
    ("form", "change", "message"),
    [
        ("nf4", lambda w: w | {f"{LAYER}.weight.absmax": torch.ones(3)}, "q_proj: its scales"),
        ("nf4", lambda w: w | {f"{LAYER}.weight.absmax": w[f"{LAYER}.weight.absmax"] * torch.inf}, "q_proj: its scal"),
        ("nf4", lambda w: w | {f"{LAYER}.weight": w[f"{LAYER}.weight"][:9].clone()}, "q_proj does not hold"),
        ("nf4", lambda w: w | {f"{LAYER}.weight.quant_map": torch.zeros(16)}, "q_proj does not hold"),
        ("nf4", lambda w: w | {f"{LAYER}.weight.surplus": torch.zeros(1)}, "surplus"),
        ("nf4", lambda w: {key: w[key] for key in w if key != f"{LAYER}.weight.absmax"}, "nf4/base"),
        ("nf4", _plain, "q_proj holds no 4-bit weights"),
        ("int8", lambda w: w | {f"{LAYER}.SCB": torch.ones(3)}, "q_proj: its scales"),
        ("int8", lambda w: w | {f"{LAYER}.weight": torch.zeros(128, 128)}, "q_proj does not hold"),
        ("int8", _plain, "q_proj"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tensors_that_are_no_quantised_weights_are_refused_by_the_name_of_their_layer(own, form, change, message):
    folder = own / form
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})
    write_manifest(folder, read_manifest(folder))
    with pytest.raises(CheckpointInvalid, match=message):
        load_model(tiny_settings(folder, quantisation="auto"), own)


def test_settings_that_this_node_does_not_quantise_with_are_refused_by_name(own):
    path = own / "nf4" / CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    config["quantization_config"]["bnb_4bit_quant_type"] = "fp4"
    path.write_text(json.dumps(config), encoding="utf-8")
    write_manifest(own / "nf4", read_manifest(own / "nf4"))
    with pytest.raises(CheckpointInvalid, match="bnb_4bit_quant_type 'fp4'"):
        load_model(tiny_settings(own / "nf4", quantisation="auto"), own)


def test_a_manifest_that_does_not_say_how_its_weights_are_stored_is_refused(own):
    manifest = read_manifest(own / "nf4").model_copy(update={"stored_quantisation": "none"})
    with pytest.raises(CheckpointInvalid, match="how weights are quantised"):
        write_manifest(own / "nf4", manifest)


def test_weights_cannot_be_stored_in_one_form_and_made_for_another():
    with pytest.raises(ValidationError, match="stored as nf4, but made for int8"):
        Manifest(**tiny_manifest().model_dump() | {"stored_quantisation": "nf4", "quantisation": "int8"})
