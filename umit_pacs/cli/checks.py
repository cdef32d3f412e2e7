"""What `umit-pacs doctor` looks at: one function per thing that can be wrong."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from umit_pacs.cli.peer_needs import refused_names, rules_in_force
from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress
from umit_pacs.dicom_network.query import echo
from umit_pacs.errors import PeerRefused, UmitPacsError
from umit_pacs.handoffs import Language
from umit_pacs.pixels.writing import reading_languages
from umit_pacs.reporting_systems.connecting import reach, system_of
from umit_pacs.result_objects.fonts import find_fonts
from umit_pacs.routing.rules import RuleSet
from umit_pacs.settings import Settings
from umit_pacs.store.database import open_catalogue
from umit_pacs.store.peers import Peer, peers
from umit_pacs.store.rules import current_rules
from umit_pacs.umit_model.checkpoint import find_checkpoint, verify
from umit_pacs.vocabulary import read_templates

ECHO_TIMEOUTS = NetworkTimeouts(connect_s=5.0, response_s=5.0)

#: A folder whose fsync takes longer than this will make senders wait.
SLOW_FSYNC_S = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The outcome of one check."""

    check: str
    is_ok: bool
    detail: str
    #: what to do; "" when nothing is wrong.
    way_out: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Run every check in turn; one that fails never stops the next."""
    for check in (
        check_store,
        check_catalogue,
        check_listener,
        check_peers,
        check_rules,
        check_templates,
        check_checkpoint,
        check_font,
        check_reading,
    ):
        yield from _guarded(check, settings)


def _guarded(check: Callable[[Settings], Iterator[Finding]], settings: Settings) -> Iterator[Finding]:
    name = check.__name__.removeprefix("check_")
    try:
        yield from check(settings)
    except UmitPacsError as exc:
        yield Finding(
            check=name, is_ok=False, detail=exc.detail, way_out="See the detail; nothing after it was checked."
        )
    except OSError as exc:
        yield Finding(
            check=name, is_ok=False, detail=str(exc), way_out="Check the path, its owner and its permissions."
        )


def check_store(settings: Settings) -> Iterator[Finding]:
    """Atomic rename, fsync and free space of the payload folder."""
    folder = settings.store.folder
    if not folder.is_dir():
        yield Finding(
            check="store", is_ok=False, detail=f"{folder} is no folder", way_out="`umit-pacs serve` makes it."
        )
        return
    duration_s = _write_durably(folder)
    yield Finding(
        check="store",
        is_ok=duration_s < SLOW_FSYNC_S,
        detail=f"{folder}: write, fsync and rename take {duration_s * 1000:.1f} ms",
        way_out="" if duration_s < SLOW_FSYNC_S else "Use a disk of its own, or one with a write cache that survives.",
    )
    free_bytes, needed_bytes = shutil.disk_usage(folder).free, settings.store.minimum_free_bytes
    yield Finding(
        check="free space",
        is_ok=free_bytes > needed_bytes,
        detail=f"{free_bytes / 1024**3:.1f} GiB free, {needed_bytes / 1024**3:.1f} GiB are kept free",
        way_out="" if free_bytes > needed_bytes else "Make room; until then every C-STORE is answered A700.",
    )


def _write_durably(folder: Path) -> float:
    """Seconds for one file to be written, synced and renamed in `folder`."""
    probe, renamed = folder / f".doctor-{os.getpid()}", folder / f".doctor-{os.getpid()}-renamed"
    started = time.monotonic()
    try:
        with probe.open("wb") as file:
            file.write(b"\0" * 65536)
            file.flush()
            os.fsync(file.fileno())
        probe.rename(renamed)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return time.monotonic() - started
    finally:
        probe.unlink(missing_ok=True)
        renamed.unlink(missing_ok=True)


def check_catalogue(settings: Settings) -> Iterator[Finding]:
    """The catalogue opens, is at this version's schema, and commits durably."""
    with closing(open_catalogue(settings.catalogue_url)) as catalogue:
        backend = catalogue.engine.dialect.name
    yield Finding(check="catalogue", is_ok=True, detail=f"{backend}: at this version's schema, commits are durable")


def check_listener(settings: Settings) -> Iterator[Finding]:
    """The port is free, or a node answers there."""
    listener = settings.listener
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listener.host, listener.port))
        except PermissionError:
            yield Finding(
                check="port",
                is_ok=False,
                detail=f"{listener.host}:{listener.port}: not allowed",
                way_out="Ports below 1024 need CAP_NET_BIND_SERVICE; or set listener.port to 11112.",
            )
            return
        except OSError as exc:
            yield _occupied(settings, exc)
            return
    loopback_only = " (loopback only: no other machine can reach it)" if listener.host.startswith("127.") else ""
    yield Finding(check="port", is_ok=True, detail=f"{listener.host}:{listener.port} is free{loopback_only}")


def _occupied(settings: Settings, reason: OSError) -> Finding:
    listener = settings.listener
    where = f"{listener.host}:{listener.port}"
    if is_node_answering(settings):
        return Finding(check="port", is_ok=True, detail=f"{where}: this node answers C-ECHO")
    return Finding(
        check="port",
        is_ok=False,
        detail=f"{where}: {reason.strerror}, and no node {listener.ae_title} answers C-ECHO there",
        way_out="Stop what holds the port, or change listener.port.",
    )


def is_node_answering(settings: Settings) -> bool:
    """Tell whether a node answers on our port; a refusal is an answer, our own AE title need not be a peer's."""
    listener = settings.listener
    host = "127.0.0.1" if listener.host == "0.0.0.0" else listener.host
    node = PeerAddress(ae_title=listener.ae_title, host=host, port=listener.port)
    try:
        echo(node, calling_ae_title=listener.ae_title, timeouts=ECHO_TIMEOUTS)
    except PeerRefused:
        return True
    except UmitPacsError:
        return False
    return True


def check_peers(settings: Settings) -> Iterator[Finding]:
    """Every peer answers C-ECHO and takes the kinds of object that are sent to it; reporting systems can be reached."""
    with closing(open_catalogue(settings.catalogue_url)) as catalogue:
        known, rules = peers(catalogue), rules_in_force(catalogue)
    if not known:
        yield Finding(
            check="peers", is_ok=False, detail="no peer is known", way_out="Run `umit-pacs peers add --help`."
        )
    for peer in known:
        yield _examine_reporting_system(peer) if peer.url else _examine_peer(peer, rules, settings)


def _examine_reporting_system(peer: Peer) -> Finding:
    try:
        reach(system_of(peer), ECHO_TIMEOUTS)
    except UmitPacsError as exc:
        way_out = "Check that it runs, its address, and the certificates of both sides."
        return Finding(check=f"peer {peer.name}", is_ok=False, detail=exc.detail, way_out=way_out)
    return Finding(check=f"peer {peer.name}", is_ok=True, detail="can be reached")


def _examine_peer(peer: Peer, rules: RuleSet, settings: Settings) -> Finding:
    address = PeerAddress(ae_title=peer.ae_title, host=peer.host, port=peer.port)
    name, title = f"peer {peer.name}", settings.listener.ae_title
    way_out = f"Check that it runs, and that it knows {title} as a remote node."
    try:
        echo(address, calling_ae_title=title, timeouts=ECHO_TIMEOUTS)
        refused = refused_names(peer, rules, settings, timeouts=ECHO_TIMEOUTS)
    except UmitPacsError as exc:
        return Finding(check=name, is_ok=False, detail=exc.detail, way_out=way_out)
    if refused:
        detail = f"does not take {', '.join(refused)}"
        way_out = "Allow these SOP classes there, or give it a profile without them; see `umit-pacs profiles list`."
        return Finding(check=name, is_ok=False, detail=detail, way_out=way_out)
    taken = ", takes everything that its drafts need" if peer.receives_results else ""
    return Finding(check=name, is_ok=True, detail="answers C-ECHO" + taken)


def check_rules(settings: Settings) -> Iterator[Finding]:
    """Rules are published, and name peers that exist."""
    with closing(open_catalogue(settings.catalogue_url)) as catalogue:
        published = current_rules(catalogue)
    if published is None:
        yield Finding(
            check="rules", is_ok=False, detail="none are published", way_out="Run `umit-pacs rules publish FILE`."
        )
    else:
        yield Finding(check="rules", is_ok=True, detail=f"version {published.version} is in force")


def check_templates(settings: Settings) -> Iterator[Finding]:
    """The SR templates and phrases, with everything that is wrong with them."""
    folder = settings.compose.templates_folder
    library, problems = read_templates(folder)
    if library is None:
        yield Finding(
            check="templates",
            is_ok=False,
            detail="\n".join(map(str, problems)),
            way_out="Correct them; a node that runs keeps what it started with, and would not start again.",
        )
    else:
        detail = f"{len(library.templates)} templates, {'the shipped ones' if folder is None else folder}"
        yield Finding(check="templates", is_ok=True, detail=detail)


def check_checkpoint(settings: Settings) -> Iterator[Finding]:
    """The checkpoint's files are those of its manifest, and what runs it is there: accelerator or server."""
    folder = find_checkpoint(settings.model.checkpoint, settings.checkpoints_folder)
    manifest = verify(folder)
    yield Finding(check="checkpoint", is_ok=True, detail=f"{manifest.name} {manifest.version}: every file as listed")
    if settings.model.engine == "remote":
        from umit_pacs.umit_model.chat_api import ChatAPI
        from umit_pacs.umit_model.remote_engine import assert_served

        assert_served(ChatAPI(settings.model.remote, connections=1).models(), manifest, settings.model)
        yield Finding(check="model server", is_ok=True, detail=f"{settings.model.remote.url} serves all of it")
        return
    import torch

    if torch.cuda.is_available():
        yield Finding(check="accelerator", is_ok=True, detail=torch.cuda.get_device_name(0))
    else:
        is_wanted = settings.model.device.startswith("cuda")
        yield Finding(
            check="accelerator",
            is_ok=not is_wanted,
            detail=f"none; the model runs on {os.cpu_count()} CPU cores",
            way_out="Install the driver, or set model.device to auto." if is_wanted else "",
        )


def check_font(settings: Settings) -> Iterator[Finding]:
    """A font that can draw Chinese drafts."""
    try:
        find_fonts(Language.CHINESE, settings.compose.font)
    except UmitPacsError as exc:
        yield Finding(check="font", is_ok=False, detail=exc.detail, way_out="Needed for drafts in Chinese only.")
    else:
        yield Finding(check="font", is_ok=True, detail="Chinese drafts can be drawn")


def check_reading(settings: Settings) -> Iterator[Finding]:
    """The program that searches images for names and instructions."""
    languages = reading_languages()
    if not settings.guard.read_images:
        yield Finding(check="reading images", is_ok=True, detail="switched off; images are not searched for writing")
    elif "eng" in languages and "chi_sim" in languages:
        yield Finding(check="reading images", is_ok=True, detail="tesseract reads English and Chinese")
    else:
        yield Finding(
            check="reading images",
            is_ok=False,
            detail=f"tesseract reads {', '.join(languages)} only" if languages else "there is no program tesseract",
            way_out="Install tesseract-ocr, tesseract-ocr-eng and tesseract-ocr-chi-sim, or set guard.read_images off.",
        )
