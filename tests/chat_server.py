"""A small server that speaks OpenAI's chat completions API as vLLM and SGLang do, with a tiny real model behind it.

It answers by transformers' own `generate` and shares nothing with the engine but the checkpoint's files: images come
from data URLs through the image processor, the prompt from the chat template, structured output from a regular
expression over the text said so far. As vLLM's, its log-probabilities are taken after the structured output's mask.
"""

from __future__ import annotations

import base64
import io
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import regex
import torch
from PIL import Image

from tests.model_fixtures import tiny_settings
from umit_pacs.umit_model.loader import LoadedModel, load_model


class ChatServer:
    """What is served, what was asked, and how the next requests shall fail."""

    def __init__(self, loaded: LoadedModel, dialect: str) -> None:
        self.loaded = loaded
        self.dialect = dialect
        self.base = f"{self.loaded.manifest.name}@{self.loaded.manifest.version}"
        self.adapters = list(self.loaded.manifest.adapters)
        self.api_key = ""
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        #: status, "truncated", "stall", "garbage", "redirect", "no logprobs" or "text tokens"; None: as it should
        self.failure: int | str | None = None
        #: adds tokens to what usage says
        self.extra_prompt_tokens = 0
        #: let go of the requests that were stalled
        self.released = threading.Event()
        self.lock = threading.Lock()
        self.url = ""

    @property
    def cards(self) -> list[dict[str, Any]]:
        adapters = [{"id": name, "object": "model", "parent": self.base} for name in self.adapters]
        return [{"id": self.base, "object": "model", "parent": None}, *adapters]

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            return _complete(self, body)


@contextmanager
def running_chat_server(
    folder: Path, dialect: str = "vllm", *, loaded: LoadedModel | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[ChatServer]:
    """Serve a checkpoint folder on a port of the system's choice. loaded: the same, in memory already."""
    state = ChatServer(loaded or load_model(tiny_settings(folder), folder.parent), dialect)

    class Handler(_Handler):
        server_state = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, name="chat-server")
    thread.start()
    state.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: ChatServer

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        state = self.server_state
        if self._is_let_in("GET"):
            self._send(200 if self.path == "/v1/models" else 404, {"object": "list", "data": state.cards})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._is_let_in("POST"):
            return
        state = self.server_state
        state.requests.append(body)
        known = [state.base, *state.adapters]
        if state.dialect == "sglang":
            known = [state.base, *(f"{state.base}:{name}" for name in state.adapters)]
        if self.path != "/v1/chat/completions" or body["model"] not in known:
            self._send(404, {"error": {"message": "not found", "type": "NotFoundError"}})
        else:
            self._send(200, state.complete(body))

    def _is_let_in(self, method: str) -> bool:
        state = self.server_state
        state.paths.append(f"{method} {self.path}")
        if state.api_key and self.headers.get("Authorization") != f"Bearer {state.api_key}":
            self._send(401, {"error": "Unauthorized"})
        elif isinstance(state.failure, int):
            self._send(state.failure, {"error": {"message": "the question was: ...", "code": state.failure}})
        elif state.failure == "stall":
            state.released.wait()
            self.close_connection = True
        elif state.failure == "redirect":
            self.send_response(307)
            self.send_header("Location", "http://elsewhere.invalid/v1/models")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            return True
        return False

    def _send(self, status: int, content: dict[str, Any]) -> None:
        failure = self.server_state.failure
        text = json.dumps(content).encode()
        if failure == "garbage":
            text = b"<html>Bad gateway</html>"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text[: len(text) // 2] if failure == "truncated" else text)
        self.close_connection = failure == "truncated"


def _complete(state: ChatServer, body: dict[str, Any]) -> dict[str, Any]:
    assert body["temperature"] == 0
    assert body["repetition_penalty"] == 1
    loaded = state.loaded
    tokenizer = loaded.processor.tokenizer
    inputs = _inputs(loaded, body["messages"])
    adapter = body["model"].removeprefix(f"{state.base}:")
    if adapter != state.base:
        loaded.peft_model.set_adapter(adapter, inference_mode=True)
    pattern = _pattern(body, state.dialect)
    length = inputs["input_ids"].shape[1]
    vocabulary = [tokenizer.decode([token]) for token in range(len(tokenizer))]
    stop_ids = body["stop_token_ids"]

    def allowed(_: int, ids: torch.Tensor) -> list[int]:
        return _allowed(pattern, tokenizer.decode(ids[length:].tolist()), vocabulary, stop_ids)

    output = loaded.network.generate(
        **inputs,
        max_new_tokens=body["max_completion_tokens"],
        do_sample=False,
        eos_token_id=stop_ids,
        pad_token_id=stop_ids[-1],
        prefix_allowed_tokens_fn=allowed if pattern else None,
        output_scores=True,
        return_dict_in_generate=True,
    )
    new = output.sequences[0, length:].tolist()
    is_complete = new[-1] in stop_ids
    said = new[:-1] if is_complete else new
    choice: dict[str, Any] = {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": tokenizer.decode(said, skip_special_tokens=body.get("skip_special_tokens", True)),
        },
        "finish_reason": "stop" if is_complete else "length",
        "logprobs": None,
    }
    if body.get("logprobs") and state.failure != "no logprobs":
        as_ids = bool(body.get("return_tokens_as_token_ids")) and state.failure != "text tokens"
        scores = [torch.log_softmax(score[0].float(), dim=-1) for score in output.scores]
        names = [f"token_id:{token}" for token in range(len(scores[0]))] if as_ids else vocabulary
        choice["logprobs"] = {
            "content": [_score(row, token, body["top_logprobs"], names) for row, token in zip(scores, new, strict=True)]
        }
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": body["model"],
        "choices": [choice],
        "usage": {"prompt_tokens": length + state.extra_prompt_tokens, "completion_tokens": len(new)},
    }


def _inputs(loaded: LoadedModel, messages: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    (message,) = messages
    images = []
    for part in message["content"]:
        if part["type"] == "image_url":
            head, _, encoded = part["image_url"]["url"].partition(",")
            assert head == "data:image/png;base64"
            images.append(np.array(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB")))
    processor = loaded.processor
    inputs = processor.image_inputs(images)
    content = [{"type": "image"} if part["type"] == "image_url" else part for part in message["content"]]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    for grid in inputs["image_grid_thw"].tolist():
        count = int(np.prod(grid)) // processor.image_processor.merge_size**2
        text = text.replace(processor.image_token, "<|image|>" * count, 1)
    ids = torch.tensor([processor.tokenizer.encode(text.replace("<|image|>", processor.image_token))])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == loaded.network.config.image_token_id).int(),
        **inputs,
    }


def _pattern(body: dict[str, Any], dialect: str) -> regex.Pattern[str] | None:
    if dialect == "sglang":
        return regex.compile(body["regex"]) if "regex" in body else None
    wanted = body.get("structured_outputs")
    if wanted is None:
        return None
    if "choice" in wanted:
        return regex.compile("|".join(regex.escape(choice) for choice in wanted["choice"]))
    return regex.compile(wanted["regex"])


def _allowed(pattern: regex.Pattern[str], said: str, vocabulary: list[str], stop_ids: list[int]) -> list[int]:
    found = [
        token
        for token, text in enumerate(vocabulary)
        if token not in stop_ids and text and pattern.fullmatch(said + text, partial=True)
    ]
    return found + (list(stop_ids) if pattern.fullmatch(said) else [])


def _score(row: torch.Tensor, token: int, count: int, names: list[str]) -> dict[str, Any]:
    best = torch.topk(row[: len(names)], count)
    listed = [
        {"token": names[index], "logprob": max(score, -9999.0)}
        for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
    return {"token": names[token], "logprob": max(float(row[token]), -9999.0), "top_logprobs": listed}
