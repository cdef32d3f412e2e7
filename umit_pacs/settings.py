"""The settings of one node: `node.toml`, then environment variables UMIT_PACS__SECTION__KEY.

Built once by the command line and passed down; no other module reads the environment. Peers and rules are not here: an
administrator changes them while the node runs, so they live in the catalogue.
"""

from __future__ import annotations

import os
import tomllib
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from umit_pacs.errors import InvalidConfiguration

AETitle = Annotated[str, Field(min_length=1, max_length=16, pattern=r"^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$")]
Port = Annotated[int, Field(ge=0, le=65535)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StoreSettings(Section):
    """Where payload files live."""

    folder: Path = Field(Path("data"), description="Folder of the payload files; relative to node.toml.")
    catalogue_url: str = Field(
        "",
        description="SQLAlchemy URL of the catalogue; empty: SQLite inside the folder. PostgreSQL: postgresql+psycopg://…",
    )
    workflow_url: str = Field(
        "",
        description="SQLAlchemy URL of the durable-work database; empty: SQLite inside the folder, or the catalogue's server.",
    )
    minimum_free_bytes: int = Field(2 * 1024**3, ge=0, description="Below this much free space C-STORE answers A700.")


class ListenerSettings(Section):
    """The DICOM listener (C-ECHO and C-STORE SCP, storage commitment events)."""

    ae_title: AETitle = Field("UMIT", description="Our AE title.")
    host: str = Field("127.0.0.1", description="Address to listen on; loopback until peers are configured.")
    port: Port = Field(11112, description="TCP port; 0 lets the system choose (tests).")
    processes: int = Field(1, ge=1, le=32, description="Receiving processes that share the port.")
    maximum_associations: int = Field(64, ge=1, description="Associations open at once per process.")
    maximum_associations_per_host: int = Field(16, ge=1, description="Associations open at once from one host.")
    association_timeout_s: float = Field(
        10.0, gt=0, description="Time for a connection to send its association request."
    )
    network_timeout_s: float = Field(60.0, gt=0, description="Longest silence on an open association.")
    pdu_timeout_s: float = Field(30.0, gt=0, description="Longest time for one PDU to arrive whole.")
    maximum_pdu_bytes: int = Field(262144, ge=16384, le=1048576, description="Longest P-DATA-TF PDU that we accept.")
    maximum_object_bytes: int = Field(4 * 1024**3, ge=1024, description="Longest C-STORE data set that we accept.")


class AssembleSettings(Section):
    """When a study is taken as complete."""

    quiet_period_s: float = Field(10.0, ge=0, description="Complete when nothing came for this long.")
    maximum_wait_s: float = Field(900.0, gt=0, description="Complete at the latest this long after the first instance.")
    ask_expected_count: bool = Field(
        True, description="Ask the sending peer by C-FIND how many instances the study has."
    )


class RemoteSettings(Section):
    """An inference server that speaks OpenAI's API; see deploy/vllm.md."""

    url: str = Field(
        "", description="Address up to /v1, e.g. https://gpu1.hospital:8000/v1; plain http to this machine only."
    )
    dialect: Literal["vllm", "sglang"] = Field("vllm", description="Which server it is, where they differ.")
    api_key: str = Field(
        "", pattern=r"^((env|file):.+)?$", description="Where the API key is: env:NAME or file:PATH; empty: none."
    )
    ca_file: Path | None = Field(
        None, description="Certificate authority of the server's certificate instead of the system's."
    )
    connect_timeout_s: float = Field(10.0, gt=0, description="Longest wait for the connection.")
    answer_timeout_s: float = Field(120.0, gt=0, description="Longest wait for one answer, from the request on.")
    skip_input_check: bool = Field(
        False, description="Ask although the checkpoint's check for unlike images cannot be made remotely."
    )

    @field_validator("url")
    @classmethod
    def _url_is_safe(cls, url: str) -> str:
        if not url:
            return url
        parts = urlsplit(url)
        if parts.scheme not in ("https", "http") or not parts.hostname or parts.query or parts.username:
            raise ValueError("an address such as https://gpu1.hospital:8000/v1")
        if parts.scheme == "http" and not is_this_machine(parts.hostname):
            raise ValueError("images leave this machine by https alone")
        return url.rstrip("/")

    def read_api_key(self) -> str:
        """The key itself; "" for none. Raises InvalidConfiguration when it is not where `api_key` says."""
        return read_secret(self.api_key, "model.remote.api_key") if self.api_key else ""


def read_secret(reference: str, setting: str) -> str:
    """The secret that `env:NAME` or `file:PATH` refers to; `setting` names it in errors.

    Raises InvalidConfiguration, which never shows the secret.
    """
    kind, _, where = reference.partition(":")
    try:
        secret = os.environ[where] if kind == "env" else Path(where).read_text(encoding="utf-8")
    except (KeyError, OSError, UnicodeDecodeError) as exc:
        raise InvalidConfiguration(f"{setting}: nothing can be read from {reference}") from exc
    if not secret.strip().isascii() or not secret.strip().isprintable() or not secret.strip():
        raise InvalidConfiguration(f"{setting}: {reference} holds nothing that can be one")
    return secret.strip()


def is_this_machine(host: str) -> bool:
    """Whether what is sent to this host stays here."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class ModelSettings(Section):
    """The checkpoint and how it runs."""

    checkpoint: str = Field("umit-demo", description="Name of an installed checkpoint, or a path to its folder.")
    folder: Path = Field(
        Path("checkpoints"), description="Folder of installed checkpoints; relative to the store's folder."
    )
    quantisation: Literal["auto", "none", "int8", "nf4"] = Field(
        "auto", description="auto: the checkpoint's own, or by device."
    )
    device: str = Field("auto", description="auto, cpu or cuda[:N].")
    threads: int = Field(0, ge=0, description="CPU threads of the model; 0: as many as there are cores.")
    answer_timeout_s: float = Field(
        300.0, gt=0, description="The watchdog ends the worker when one study takes longer; waiting does not count."
    )
    maximum_batch: int = Field(
        96, ge=1, description="Orders answered in one batch; halved when memory runs out. Holds four radiographs."
    )
    image_pixel_budget: int = Field(64 * 1024**2, ge=1, description="Most pixels of one frame that are decoded.")
    study_pixel_budget: int = Field(2 * 1024**3, ge=1, description="Most pixels of one study that are decoded.")
    decode_timeout_s: float = Field(120.0, gt=0, description="Longest time for decoding one series.")
    decode_memory_bytes: int = Field(
        4 * 1024**3, ge=256 * 1024**2, description="Address space of the decoding process."
    )
    engine: Literal["local", "remote"] = Field("local", description="Who answers: this process, or a server.")
    remote: RemoteSettings = Field(RemoteSettings(), description="The server, where engine is remote.")

    @model_validator(mode="after")
    def _remote_has_an_address(self) -> ModelSettings:
        if self.engine == "remote" and not self.remote.url:
            raise ValueError("engine is remote, and remote.url is empty")
        return self


class ComposeSettings(Section):
    """What the objects say about this installation."""

    institution_name: str = Field("", description="InstitutionName of result objects; empty: the source's.")
    device_serial_number: str = Field("UMIT-PACS-1", min_length=1, description="DeviceSerialNumber of result objects.")
    uid_root: str = Field("2.25", description="UID root of result objects; 2.25 derives them from a UUID (PS3.5 B.2).")
    templates_folder: Path | None = Field(None, description="SR templates instead of the shipped ones.")
    font: Path | None = Field(
        None, description="Font file for Chinese text in pictures; empty: look for an installed one."
    )
    profiles: dict[str, tuple[str, ...]] = Field(
        {}, description="Output profiles of one's own, NAME = [kinds of result object]; see `umit-pacs profiles list`."
    )


class GuardSettings(Section):
    """The consistency guard; see docs/guard.md."""

    read_images: bool = Field(
        True, description="Search the analysed images for names and instructions; needs the program tesseract."
    )
    hold_identity: bool = Field(
        True, description="Hold a draft back when the patient's own data stand in an image; else only say so."
    )
    read_timeout_s: float = Field(20.0, gt=0, description="Longest time for searching the images of one study.")


class DeliverSettings(Section):
    """Sending results back."""

    first_pause_s: float = Field(2.0, gt=0, description="Pause after the first failed attempt; doubled each time.")
    longest_pause_s: float = Field(900.0, gt=0, description="The pause grows up to this.")
    give_up_after_s: float = Field(
        7 * 86400.0, gt=0, description="A peer that is away this long ends in a dead letter."
    )
    connect_timeout_s: float = Field(10.0, gt=0, description="TCP connection and association request.")
    response_timeout_s: float = Field(60.0, gt=0, description="Longest wait for one DIMSE response.")
    commitment_timeout_s: float = Field(
        60.0, gt=0, description="Longest wait for a storage commitment event before asking again."
    )
    confirm_attempts: int = Field(5, ge=1, description="How often confirmation is asked before the study fails.")

    def pause_s(self, attempts: int) -> float:
        """The pause after so many attempts in vain."""
        return min(self.first_pause_s * 2.0 ** min(max(attempts - 1, 0), 60), self.longest_pause_s)

    def has_given_up(self, attempts: int) -> bool:
        """Whether the pauses after so many attempts in vain add up to `give_up_after_s`."""
        return sum(self.pause_s(attempt) for attempt in range(1, attempts)) >= self.give_up_after_s


class PriorSettings(Section):
    """The earlier study that a study is compared with; see docs/priors.md. Which peers are asked stands with the peers."""

    ae_title: AETitle = Field(
        "UMIT_PRIOR", description="Our AE title that earlier studies come to by C-MOVE; on the listener's port."
    )
    oldest_days: int = Field(1826, ge=1, description="An earlier study may be so many days older.")
    time_limit_s: float = Field(
        30.0, gt=0, description="Longest time from routing until its images are here; then nothing is compared."
    )
    maximum_bytes: int = Field(1024**3, ge=1024, description="Most bytes that are fetched of one earlier study.")


class HL7Settings(Section):
    """The HL7 listener (MLLP) that takes final reports; see docs/versions-and-feedback.md."""

    port: Port = Field(0, description="TCP port; 0: no HL7 listener.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    certificate_file: Path | None = Field(None, description="Certificate chain of this node (PEM): TLS is on.")
    key_file: Path | None = Field(None, description="Its private key (PEM), unless it stands in the same file.")
    ca_file: Path | None = Field(None, description="Authority that callers' certificates must come from (PEM).")
    maximum_message_bytes: int = Field(4 * 1024**2, ge=1024, description="Longest message that is taken.")
    maximum_connections: int = Field(16, ge=1, description="Connections open at once.")
    idle_timeout_s: float = Field(300.0, gt=0, description="Longest silence on a connection.")

    @model_validator(mode="after")
    def _certificates_mean_tls(self) -> HL7Settings:
        if self.certificate_file is None and (self.key_file is not None or self.ca_file is not None):
            raise ValueError("without certificate_file there is no TLS, and key_file and ca_file would do nothing")
        return self


class FinalReportsSettings(Section):
    """The search for final reports at peers that do not send them; see docs/versions-and-feedback.md."""

    first_pause_s: float = Field(
        900.0, gt=0, description="Time from the end of a draft's path to the first look; doubled after each."
    )
    longest_pause_s: float = Field(86400.0, gt=0, description="The pause grows up to this.")
    give_up_after_s: float = Field(14 * 86400.0, gt=0, description="No more looks so long after the draft.")
    maximum_reports: int = Field(20, ge=1, description="Most reports that one look at one study takes.")
    maximum_bytes: int = Field(20 * 1024**2, ge=1024, description="Most bytes that one look at one study takes.")
    time_limit_s: float = Field(60.0, gt=0, description="Longest time for retrieving the reports of one study.")

    def pause_s(self, looks: int) -> float:
        """The pause after so many looks in vain."""
        return min(self.first_pause_s * 2.0 ** min(looks, 60), self.longest_pause_s)


class ServeSettings(Section):
    """Processes and their supervision."""

    workers: int = Field(1, ge=1, le=64, description="Inference workers; one per accelerator.")
    studies_in_hand: int = Field(
        4, ge=1, le=32, description="Studies that one worker prepares and answers at the same time."
    )
    shutdown_grace_s: float = Field(20.0, gt=0, description="Time for running associations and studies to end.")
    restart_pause_s: float = Field(
        1.0, gt=0, description="Pause before a crashed process is restarted; doubled each time."
    )
    longest_restart_pause_s: float = Field(60.0, gt=0, description="The pause grows up to this.")
    lease_s: float = Field(60.0, gt=1, description="A worker silent for this long loses its work to another.")
    keep_workflows_s: float = Field(
        30 * 86400.0, gt=0, description="Records of finished durable work are deleted after this time; studies stay."
    )
    log_format: Literal["json", "columns"] = Field("columns", description="json for machines, columns for people.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe line that is written."
    )


class Settings(BaseSettings):
    """Everything a node needs to start."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_prefix="UMIT_PACS__", env_nested_delimiter="__")

    store: StoreSettings = StoreSettings()
    listener: ListenerSettings = ListenerSettings()
    assemble: AssembleSettings = AssembleSettings()
    model: ModelSettings = ModelSettings()
    compose: ComposeSettings = ComposeSettings()
    guard: GuardSettings = GuardSettings()
    priors: PriorSettings = PriorSettings()
    deliver: DeliverSettings = DeliverSettings()
    hl7: HL7Settings = HL7Settings()
    final_reports: FinalReportsSettings = FinalReportsSettings()
    serve: ServeSettings = ServeSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file (the file's content arrives as init arguments)."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _priors_come_to_a_title_of_their_own(self) -> Settings:
        if self.priors.ae_title == self.listener.ae_title:
            raise ValueError("priors.ae_title is listener.ae_title: an earlier study would be read as a new one")
        return self

    @property
    def catalogue_url(self) -> str:
        """SQLAlchemy URL of the catalogue."""
        return self.store.catalogue_url or f"sqlite:///{self.store.folder / 'catalogue.sqlite'}"

    @property
    def workflow_url(self) -> str:
        """SQLAlchemy URL of the database that durable work is recorded in."""
        if self.store.workflow_url or self.store.catalogue_url:
            return self.store.workflow_url or self.store.catalogue_url
        return f"sqlite:///{self.store.folder / 'workflows.sqlite'}"

    @property
    def checkpoints_folder(self) -> Path:
        """Folder of the installed checkpoints."""
        return self.store.folder / self.model.folder


def load_settings(path: Path | None) -> Settings:
    """Read `path` (defaults when None) and the environment.

    A relative store folder is taken from the file's folder. Raises InvalidConfiguration that names the file and, for
    each wrong or unknown key, its path and what is wrong with it.
    """
    content: dict[str, Any] = {}
    if path is not None:
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as exc:
            raise InvalidConfiguration(f"{path}: no such file; `umit-pacs init` writes one") from exc
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
            raise InvalidConfiguration(f"{path}: {exc}") from exc
    try:
        settings = Settings(**content)
    except ValidationError as exc:
        lines = [f"{'.'.join(map(str, error['loc']))}: {_what_is_wrong(error)}" for error in exc.errors()]
        raise InvalidConfiguration(f"{path or 'environment'}: " + "; ".join(lines)) from exc
    base = path.resolve().parent if path is not None else Path.cwd()
    store = settings.store.model_copy(update={"folder": (base / settings.store.folder).resolve()})
    return settings.model_copy(update={"store": store})


def _what_is_wrong(error: ErrorDetails) -> str:
    return "there is no such setting" if error["type"] == "extra_forbidden" else error["msg"]
