"""The remote engine answers as the local one does, from a server that speaks vLLM's or SGLang's API."""

from __future__ import annotations

import json
import re
import shutil
import ssl
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.chat_server import ChatServer, running_chat_server
from tests.model_fixtures import (
    own_tiny_folder,  # noqa: F401
    radiograph,
    tiny_engine,  # noqa: F401
    tiny_folder,  # noqa: F401
    tiny_settings,
    volume,
)
from tests.tiny_checkpoint import IMAGE_PX, SLICES, tiny_answers, tiny_manifest, write_tiny_checkpoint
from umit_pacs.cli.checks import check_checkpoint
from umit_pacs.errors import InvalidConfiguration, ModelBusy, NoUsableFrames
from umit_pacs.handoffs import Abstention, Language, Task
from umit_pacs.node.work_process import open_checkpoint
from umit_pacs.settings import ModelSettings, RemoteSettings, Settings, load_settings
from umit_pacs.umit_model.answers import boxes_answer
from umit_pacs.umit_model.checkpoint import write_manifest
from umit_pacs.umit_model.engine import load_engine
from umit_pacs.umit_model.engines import open_engine
from umit_pacs.umit_model.questions import ShownImage, make_question
from umit_pacs.umit_model.remote_answers import places_pattern, up_to
from umit_pacs.umit_model.remote_engine import connect_engine
from umit_pacs.vocabulary import load_templates

TEMPLATES = load_templates()
DIALECTS = ("vllm", "sglang")


@pytest.fixture(scope="module", params=DIALECTS)
def any_server(request, tiny_folder) -> ChatServer:  # noqa: F811
    with running_chat_server(tiny_folder, request.param) as server:
        yield server


@pytest.fixture(scope="module")
def vllm(tiny_folder) -> ChatServer:  # noqa: F811
    with running_chat_server(tiny_folder) as server:
        yield server


@pytest.fixture
def server(vllm) -> ChatServer:
    """The server as it should be, before and after a test that makes it fail."""
    vllm.requests.clear()
    vllm.paths.clear()
    yield vllm
    vllm.failure, vllm.api_key, vllm.extra_prompt_tokens = None, "", 0
    vllm.adapters = list(vllm.loaded.manifest.adapters)


def remote_settings(server: ChatServer, folder: Path, **remote) -> ModelSettings:
    settings = {"url": server.url, "dialect": server.dialect} | remote
    return tiny_settings(folder, engine="remote", remote=RemoteSettings(**settings))


def connected(server: ChatServer, folder: Path, **remote):
    return connect_engine(remote_settings(server, folder, **remote), folder.parent)


def orders_for(modality: str):
    return [order for order, _, of, _ in tiny_answers() if of == modality]


def one_order(task: Task, modality: str = "DX", language: Language = Language.ENGLISH):
    return next(order for order in orders_for(modality) if order.task is task and order.language is language)


def one_of_each(modality: str):
    """One order per task, in both languages in turn."""
    return list({order.task: order for order in orders_for(modality)[:: 1 if modality == "CT" else -1]}.values())


# --- the same answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", ["DX", "CT"])
def test_every_task_is_answered_as_by_the_local_engine(any_server, tiny_folder, tiny_engine, modality):  # noqa: F811
    series = volume() if modality == "CT" else radiograph()
    orders = one_of_each(modality)
    expected = tiny_engine.answer(series, orders, TEMPLATES)
    answers = connected(any_server, tiny_folder).answer(series, orders, TEMPLATES)
    assert [answer.order for answer in answers] == [answer.order for answer in expected]
    for one, other in zip(answers, expected, strict=True):
        assert (one.answer_text, one.instruction) == (other.answer_text, other.instruction)
        assert (one.abstention, one.option_index, one.presence) == (
            other.abstention,
            other.option_index,
            other.presence,
        )
        assert (one.text, one.images_shown) == (other.text, other.images_shown)
        assert [region.points for region in one.regions] == [region.points for region in other.regions]
        assert one.confidence == pytest.approx(other.confidence, abs=2e-3)
        for mine, theirs in zip(one.regions, other.regions, strict=True):
            assert mine.confidence == pytest.approx(theirs.confidence, abs=2e-3)
        for mine, theirs in zip(one.statements, other.statements, strict=True):
            assert mine.confidence == pytest.approx(theirs.confidence, abs=2e-3)


def test_several_images_are_shown_in_one_prompt_and_places_are_asked_of_each(server, own_tiny_folder):  # noqa: F811
    manifest = tiny_manifest()
    two = tuple(
        profile.model_copy(update={"maximum_images": 2}) if profile.task is Task.REPORT else profile
        for profile in manifest.profiles
    )
    write_manifest(own_tiny_folder, manifest.model_copy(update={"profiles": two}))
    orders = [one_order(Task.REPORT), one_order(Task.DETECTION)]
    local = load_engine(tiny_settings(own_tiny_folder), own_tiny_folder.parent).answer(radiograph(3), orders, TEMPLATES)
    remote = connected(server, own_tiny_folder).answer(radiograph(3), orders, TEMPLATES)
    shown = sorted(len(request["messages"][0]["content"]) - 1 for request in server.requests)
    assert shown == [1, 1, 1, 2]
    for one, other in zip(remote, local, strict=True):
        assert (one.answer_text, one.images_shown) == (other.answer_text, other.images_shown)
        assert len(one.regions) == len(other.regions)


def test_series_are_answered_together_as_alone(server, tiny_folder):  # noqa: F811
    engine = connected(server, tiny_folder)
    asked = [(radiograph(seed=1), one_of_each("DX")[:2]), (volume(seed=2), one_of_each("CT")[:2])]
    together = engine.answer_many(asked, TEMPLATES)
    assert together == [engine.answer(series, orders, TEMPLATES) for series, orders in asked]


def test_an_answer_of_another_form_is_asked_for_again_within_the_form(tmp_path):
    folder = tmp_path / "tiny"
    write_tiny_checkpoint(folder, steps=0)
    orders = [one_order(Task.CLASSIFICATION), one_order(Task.LANDMARK)]
    local = load_engine(tiny_settings(folder), tmp_path).answer(radiograph(), orders, TEMPLATES)
    with running_chat_server(folder) as server:
        remote = connected(server, folder).answer(radiograph(), orders, TEMPLATES)
    kept = [request["structured_outputs"] for request in server.requests if "structured_outputs" in request]
    assert sorted(next(iter(wanted)) for wanted in kept) == ["choice", "regex"]
    assert [answer.answer_text for answer in remote] == [answer.answer_text for answer in local]
    # What a random model is forced to say is nobody's answer, near or far.
    assert [answer.abstention.reason for answer in remote] == [answer.abstention.reason for answer in local]


def test_what_the_checkpoint_was_not_trained_for_is_not_asked(server, tiny_folder):  # noqa: F811
    engine = connected(server, tiny_folder)
    order = replace(one_order(Task.DETECTION), task=Task.DETECTION_3D)
    (answer,) = engine.answer(radiograph(), [order], TEMPLATES)
    assert answer.abstention == Abstention(reason="not_trained_for", detail="detection_3d of DX")
    image = replace(radiograph().images[0], modality="CT")
    (answer,) = engine.answer(replace(radiograph(), images=(image,)), [one_order(Task.REPORT, "CT")], TEMPLATES)
    assert answer.abstention == Abstention(reason="not_prepared", detail="the series has no volume")
    assert not server.requests
    with pytest.raises(NoUsableFrames):
        engine.requirements(order, "US")


def test_an_answer_without_end_is_an_abstention(server, own_tiny_folder):  # noqa: F811
    manifest = tiny_manifest()
    short = tuple(profile.model_copy(update={"maximum_new_tokens": 3}) for profile in manifest.profiles)
    write_manifest(own_tiny_folder, manifest.model_copy(update={"profiles": short}))
    (report,) = connected(server, own_tiny_folder).answer(radiograph(), [one_order(Task.REPORT)], TEMPLATES)
    assert report.abstention.reason == "answer_too_long"


def test_another_prompt_on_the_server_is_said_once(server, tiny_folder, caplog):  # noqa: F811
    engine = connected(server, tiny_folder)
    engine.answer(radiograph(), [one_order(Task.CLASSIFICATION)], TEMPLATES)
    assert not caplog.records
    server.extra_prompt_tokens = 7
    engine.answer(radiograph(), one_of_each("DX")[:2], TEMPLATES)
    (record,) = caplog.records
    assert (record.message, record.server_tokens - record.own_tokens) == ("remote_prompt_differs", 7)


@pytest.mark.parametrize(
    ("modality", "task", "taken", "refused"),
    [
        ("DX", Task.DETECTION, [[((0, 0), (1000, 999))], [((5, 6), (7, 8))] * 3, []], [[((0, 0), (1001, 5))]]),
        ("CT", Task.DETECTION_3D, [[((0, 0, 0), (55, 55, 2))], []], [[((0, 0, 0), (55, 55, 3))]]),
    ],
)
@pytest.mark.parametrize("language", list(Language))
def test_the_pattern_of_places_takes_what_the_frame_holds(tiny_engine, modality, task, taken, refused, language):  # noqa: F811
    order = one_order(task, modality, language)
    template, loaded = TEMPLATES.by_key(order.template), tiny_engine._loaded
    question = make_question(order, template, modality, loaded.manifest, loaded.processor)
    extent = (IMAGE_PX, IMAGE_PX, SLICES) if modality == "CT" else (IMAGE_PX, IMAGE_PX)
    shown = ShownImage(image_index=0, extent=extent, resized_xy=(IMAGE_PX, IMAGE_PX))
    pattern = re.compile(places_pattern(question, shown))
    assert all(pattern.fullmatch(boxes_answer(boxes, language)) for boxes in taken)
    assert not any(pattern.fullmatch(boxes_answer(boxes, language)) for boxes in refused)
    assert not pattern.fullmatch("")


@pytest.mark.parametrize("largest", [0, 1, 7, 10, 31, 55, 99, 100, 255, 600, 999, 1000, 1023])
def test_a_number_of_the_frame_is_matched_exactly(largest):
    pattern = re.compile(up_to(largest))
    matched = {text for text in (f"{n:d}" for n in range(11000)) if pattern.fullmatch(text)}
    assert matched == {str(n) for n in range(largest + 1)}
    assert not any(pattern.fullmatch(text) for text in ("", "00", "01", "-1", "1.0"))


# --- the engine is chosen by the settings ------------------------------------------------------------------------


def test_the_settings_choose_the_engine(server, tiny_folder, tmp_path):  # noqa: F811
    settings = remote_settings(server, tiny_folder)
    assert open_engine(settings, tmp_path).identity.device == "remote (vllm)"
    assert open_engine(tiny_settings(tiny_folder), tmp_path).identity.device == "cpu"
    opened = open_checkpoint(Settings(model=settings), settings.checkpoint)
    assert opened.identity.device == "remote (vllm)"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('engine = "remote"', r"remote\.url is empty"),
        ('[model.remote]\nurl = "http://10.0.0.9:8000/v1"', "by https alone"),
        ('[model.remote]\nurl = "http://127.0.0.1.example.org/v1"', "by https alone"),
        ('[model.remote]\nurl = "ftp://127.0.0.1/v1"', "an address such as"),
        ('[model.remote]\nurl = "https://user:secret@host/v1"', "an address such as"),
        ('[model.remote]\napi_key = "sk-123"', "api_key"),
        ('[model.remote]\ndialect = "tgi"', "dialect"),
    ],
)
def test_unsafe_or_incomplete_settings_stop_the_start(tmp_path, text, complaint):
    (tmp_path / "node.toml").write_text(f"[model]\n{text}\n")
    with pytest.raises(InvalidConfiguration, match=complaint):
        load_settings(tmp_path / "node.toml")


# --- the server at the start -------------------------------------------------------------------------------------


def test_a_missing_adapter_stops_the_start_by_its_name(server, tiny_folder):  # noqa: F811
    server.adapters.remove("vqa")
    with pytest.raises(InvalidConfiguration, match="does not serve the adapter vqa of tiny"):
        connected(server, tiny_folder)


def test_another_version_on_the_server_stops_the_start(server, own_tiny_folder):  # noqa: F811
    write_manifest(own_tiny_folder, tiny_manifest().model_copy(update={"version": "1"}))
    with pytest.raises(InvalidConfiguration, match="does not serve tiny@1; start it with --served-model-name tiny@1"):
        connected(server, own_tiny_folder)


def test_an_adapter_of_another_base_stops_the_start(server, tiny_folder, monkeypatch):  # noqa: F811
    cards = [card | {"parent": "other@1"} if card["parent"] else card for card in server.cards]
    monkeypatch.setattr(ChatServer, "cards", cards)
    with pytest.raises(InvalidConfiguration, match="is an adapter of other@1"):
        connected(server, tiny_folder)


def test_a_check_of_images_that_cannot_be_made_is_not_skipped_in_silence(server, own_tiny_folder):  # noqa: F811
    shutil.copy(own_tiny_folder / "base/model.safetensors", own_tiny_folder / "input_check.safetensors")
    write_manifest(own_tiny_folder, tiny_manifest())
    with pytest.raises(InvalidConfiguration, match="skip_input_check"):
        connected(server, own_tiny_folder)
    connected(server, own_tiny_folder, skip_input_check=True)


def test_the_doctor_asks_the_server_for_all_of_the_checkpoint(server, tiny_folder):  # noqa: F811
    settings = Settings(model=remote_settings(server, tiny_folder))
    findings = list(check_checkpoint(settings))
    assert [(finding.check, finding.is_ok) for finding in findings] == [("checkpoint", True), ("model server", True)]
    server.adapters.remove("vqa")
    with pytest.raises(InvalidConfiguration, match="adapter vqa"):
        list(check_checkpoint(settings))


# --- failures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [408, 429, 500, 502, 503, 504, "truncated", "garbage", "stall"])
def test_what_may_pass_is_tried_later_and_then_answered(server, tiny_folder, failure):  # noqa: F811
    # Short enough for the one request that stalls; the others are long done or fail at once.
    engine = connected(server, tiny_folder, answer_timeout_s=0.5 if failure == "stall" else 60.0)
    server.failure = failure
    with pytest.raises(ModelBusy):
        engine.answer(radiograph(), [one_order(Task.CLASSIFICATION)], TEMPLATES)
    server.failure = None
    if failure != "stall":
        (answer,) = engine.answer(radiograph(), [one_order(Task.CLASSIFICATION)], TEMPLATES)
        assert answer.abstention is None


@pytest.mark.parametrize(
    ("failure", "complaint"),
    [
        (400, r"does not take the request \(400\)"),
        (401, "refuses the API key"),
        (404, "not found"),
        (413, r"does not take the request \(413\)"),
        ("redirect", "sends elsewhere"),
        ("no logprobs", "without the log-probabilities"),
        ("text tokens", "names tokens by their text"),
    ],
)
def test_what_will_not_pass_needs_the_operator(server, tiny_folder, failure, complaint):  # noqa: F811
    engine = connected(server, tiny_folder)
    server.failure = failure
    with pytest.raises(InvalidConfiguration, match=complaint) as raised:
        engine.answer(radiograph(), [one_order(Task.CLASSIFICATION)], TEMPLATES)
    assert "the question was" not in raised.value.detail
    assert len(server.paths) == 2, "nothing is asked twice"


def test_a_server_that_is_not_there_is_tried_later(server, tiny_folder):  # noqa: F811
    with running_chat_server(tiny_folder) as gone:
        settings = remote_settings(gone, tiny_folder)
    with pytest.raises(ModelBusy) as raised:
        connect_engine(settings, tiny_folder.parent)
    assert raised.value.reason == "model_server_unavailable"


# --- secrets, certificates, addresses ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["env", "file"])
def test_the_key_is_read_by_reference_and_never_shown(
    server,
    tiny_folder,  # noqa: F811
    tmp_path,
    monkeypatch,
    caplog,
    kind,
):
    caplog.set_level("DEBUG")
    server.api_key = "secret-4711"
    monkeypatch.setenv("MODEL_SERVER_KEY", "secret-4711")
    (tmp_path / "key").write_text("secret-4711\n")
    api_key = "env:MODEL_SERVER_KEY" if kind == "env" else f"file:{tmp_path / 'key'}"
    connected(server, tiny_folder, api_key=api_key)
    server.api_key = "another"
    with pytest.raises(InvalidConfiguration) as raised:
        connected(server, tiny_folder, api_key=api_key)
    assert "secret-4711" not in raised.value.detail + caplog.text
    with pytest.raises(InvalidConfiguration, match="nothing can be read"):
        connected(server, tiny_folder, api_key=f"{kind}:{tmp_path}/NOWHERE")


def test_no_proxy_of_the_environment_is_asked(server, tiny_folder, monkeypatch):  # noqa: F811
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    connected(server, tiny_folder)
    assert server.paths == ["GET /v1/models"]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_an_unknown_certificate_is_refused_and_a_named_authority_is_believed(
    server,
    tiny_folder,  # noqa: F811
    tmp_path,
):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    request += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(request, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with running_chat_server(tiny_folder, loaded=server.loaded, tls=context) as secure:
        with pytest.raises(InvalidConfiguration, match="CERTIFICATE_VERIFY_FAILED"):
            connected(secure, tiny_folder)
        assert secure.paths == []
        connected(secure, tiny_folder, ca_file=certificate)
        assert secure.paths == ["GET /v1/models"]


def test_a_request_says_what_a_server_would_else_take_from_the_models_files(server, tiny_folder):  # noqa: F811
    connected(server, tiny_folder).answer(radiograph(), [one_order(Task.VQA)], TEMPLATES)
    (body,) = server.requests
    assert body["model"] == "vqa"
    assert (body["temperature"], body["top_p"], body["repetition_penalty"]) == (0, 1, 1)
    assert body["skip_special_tokens"] is False
    assert (body["logprobs"], body["top_logprobs"]) == (True, 20)
    assert [part["type"] for part in body["messages"][0]["content"]] == ["image_url", "text"]
    assert "structured_outputs" not in json.dumps(body)
