"""OpenAI's chat completions API as vLLM and SGLang serve it: requests out, checked replies in.

The only user of the HTTP library. Nothing but the configured address is ever asked: no proxy of the environment, no
redirect, certificates verified. What the server says in an error is not repeated, because it may quote the question.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel, Field, ValidationError

from umit_pacs.errors import InvalidConfiguration, ModelBusy
from umit_pacs.settings import RemoteSettings

# It writes a line per request.
logging.getLogger("httpx2").setLevel(logging.WARNING)

#: the most that vLLM gives unless it is told otherwise (--max-logprobs)
TOP_LOGPROBS = 20
#: longest reply: a report of 4096 tokens with 20 alternatives each takes about 8 MB
_LONGEST_REPLY_BYTES = 64 * 1024**2
#: what the same request may get over later
_PASSING = frozenset(
    {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)

Wanted = TypeVar("Wanted", bound=BaseModel)


class TokenScore(BaseModel):
    """A token and its log-probability; `token` is `token_id:N` from vLLM, text from SGLang."""

    token: str
    logprob: float


class SaidToken(TokenScore):
    """One token of the answer with the likeliest at its place."""

    top_logprobs: list[TokenScore] = []


class _LogProbs(BaseModel):
    content: list[SaidToken]


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str
    logprobs: _LogProbs | None = None


class _Usage(BaseModel):
    prompt_tokens: int = 0


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1, max_length=1)
    usage: _Usage = _Usage()


class _ModelCard(BaseModel):
    id: str
    parent: str | None = None


class _ModelList(BaseModel):
    data: list[_ModelCard]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """One answer of the server."""

    text: str
    #: with the end mark, where the server lists it
    tokens: tuple[SaidToken, ...]
    #: False: cut off at the bound
    is_complete: bool
    #: tokens of the question, images among them; 0 where the server does not say
    prompt_tokens: int


class ChatAPI:
    """One server; may be used by several threads."""

    def __init__(self, settings: RemoteSettings, *, connections: int) -> None:
        self._settings = settings
        key = settings.read_api_key()
        self._client = httpx2.Client(
            base_url=settings.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            verify=_certificates(settings),
            trust_env=False,
            follow_redirects=False,
            # An answer takes far longer than a connection, and one kept open may be dead when it is needed.
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=0),
            timeout=httpx2.Timeout(settings.answer_timeout_s, connect=settings.connect_timeout_s),
        )

    def models(self) -> dict[str, str | None]:
        """The models that are served, and each one's parent: that of an adapter is its base model.

        Raises as `complete`.
        """
        return {card.id: card.parent for card in self._ask("GET", "/models", None, _ModelList).data}

    def complete(self, body: Mapping[str, Any]) -> Reply:
        """The reply to one request with log-probabilities.

        Raises ModelBusy for what may pass (no connection, too slow, overloaded, failed, cut off), InvalidConfiguration
        for what will not (the certificate, the key, a model or request that the server does not take).
        """
        completion = self._ask("POST", "/chat/completions", body, _Completion)
        choice = completion.choices[0]
        if choice.logprobs is None:
            raise InvalidConfiguration(f"{self._settings.url}: replies without the log-probabilities asked for")
        return Reply(
            text=choice.message.content or "",
            tokens=tuple(choice.logprobs.content),
            is_complete=choice.finish_reason == "stop",
            prompt_tokens=completion.usage.prompt_tokens,
        )

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, wanted: type[Wanted]) -> Wanted:
        content = self._exchange(method, path, body)
        try:
            return wanted.model_validate_json(content)
        except ValidationError as exc:
            # A gateway's page, or a reply that was cut short where no length was announced.
            detail = f"{self._settings.url}{path}: the reply is no {wanted.__name__.strip('_')}"
            raise ModelBusy(detail, reason="model_server_unreadable") from exc

    def _exchange(self, method: str, path: str, body: Mapping[str, Any] | None) -> bytes:
        started = time.monotonic()
        try:
            with self._client.stream(method, path, json=body) as response:
                if response.status_code != HTTPStatus.OK:
                    raise self._refusal(path, response.status_code)
                return self._read(response, started + self._settings.answer_timeout_s)
        except httpx2.TimeoutException as exc:
            raise ModelBusy(f"{self._settings.url}: too slow ({type(exc).__name__})") from exc
        except httpx2.RequestError as exc:
            if isinstance(_root(exc), ssl.SSLError):
                raise InvalidConfiguration(f"{self._settings.url}: {_root(exc)}") from exc
            raise ModelBusy(f"{self._settings.url}: {type(exc).__name__}", reason="model_server_unavailable") from exc

    def _read(self, response: httpx2.Response, deadline: float) -> bytes:
        content = bytearray()
        for part in response.iter_bytes():
            content += part
            if len(content) > _LONGEST_REPLY_BYTES:
                raise InvalidConfiguration(f"{self._settings.url}: a reply of over {_LONGEST_REPLY_BYTES} bytes")
            if time.monotonic() > deadline:
                raise ModelBusy(f"{self._settings.url}: the reply came too slowly")
        return bytes(content)

    def _refusal(self, path: str, status: int) -> ModelBusy | InvalidConfiguration:
        where = f"{self._settings.url}{path}"
        if status in _PASSING:
            return ModelBusy(f"{where}: answers {status}", reason="model_server_unavailable")
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return InvalidConfiguration(f"{where}: refuses the API key ({status}); see model.remote.api_key")
        if status == HTTPStatus.NOT_FOUND:
            return InvalidConfiguration(f"{where}: not found; see model.remote.url and the adapters that are served")
        if 300 <= status < 400:
            return InvalidConfiguration(f"{where}: sends elsewhere ({status}), which is not followed")
        return InvalidConfiguration(f"{where}: does not take the request ({status}); its log says why")


def image_message(instruction: str, images: Sequence[str]) -> list[dict[str, Any]]:
    """The messages of one question: the images as data URLs, then the text, as the local prompt has them."""
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": image}} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": instruction}]}]


def _certificates(settings: RemoteSettings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(settings.ca_file) if settings.ca_file else None)
    except (OSError, ssl.SSLError) as exc:
        raise InvalidConfiguration(f"model.remote.ca_file: {settings.ca_file}: {exc}") from exc


def _root(exc: BaseException) -> BaseException:
    while (cause := exc.__cause__ or exc.__context__) is not None:
        exc = cause
    return exc
