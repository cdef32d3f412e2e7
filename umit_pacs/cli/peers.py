"""`umit-pacs peers`: who may send, and the archives and reporting systems that receive the drafts."""

from __future__ import annotations

import dataclasses
import ipaddress
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich.markup import escape
from rich.table import Table

from umit_pacs.cli.options import ConfigOption, JSONOption, console, error_console, print_json, settings_from
from umit_pacs.errors import InvalidConfiguration, UmitPacsError
from umit_pacs.prior_studies import PriorBy
from umit_pacs.routing.rules import SENDER, RuleSet
from umit_pacs.settings import AETitle, Settings
from umit_pacs.states import RetireBy, RetrieveBy

if TYPE_CHECKING:
    from umit_pacs.store.peers import Peer

#: Study Root Query/Retrieve Information Model - FIND.
_FIND = "1.2.840.10008.5.1.4.1.2.2.1"

NameArgument = Annotated[str, typer.Argument(help="Our name for the peer, as rules write it.")]


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Who may send studies, and who receives the drafts.")
    group.command("list")(list_peers)
    for command in (add, add_reporting_system, remove, echo):
        group.command()(command)
    app.add_typer(group, name="peers", rich_help_panel="Administer")


def list_peers(config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """List the peers."""
    known = _known(settings_from(config))
    if as_json:
        print_json([dataclasses.asdict(peer) for peer in known])
        return
    table = Table("Name", "AE title", "Address", "May call from", "Sends", "Receives drafts", "Profile", "Told by")
    table.add_column("Asked for")
    for peer in known:
        address = peer.url or f"{peer.host}:{peer.port}"
        callers = "" if peer.url else ", ".join(peer.allowed_addresses)
        table.add_row(
            *map(escape, (peer.name, peer.ae_title, address, callers)),
            _yes(peer.may_send),
            _yes(peer.receives_results),
            escape(peer.profile or ("" if peer.url else "the rule's")),
            "withdrawal" if peer.url else peer.retire_by.value,
            ", ".join(_asked_for(peer)),
        )
    console.print(table)


def add(
    name: NameArgument,
    ae_title: Annotated[str, typer.Option(help="Its AE title.")],
    host: Annotated[str, typer.Option(help="Its IP address or host name.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Its DICOM port.")],
    sends: Annotated[bool, typer.Option("--sends/--no-sends", help="It may send studies.")] = True,
    receives: Annotated[bool, typer.Option("--receives/--no-receives", help="Drafts may be sent to it.")] = True,
    query: Annotated[
        bool | None, typer.Option("--query/--no-query", help="It answers C-FIND; default: it is asked now.")
    ] = None,
    commitment: Annotated[
        bool | None,
        typer.Option("--commitment/--no-commitment", help="It answers storage commitment; default: it is asked now."),
    ] = None,
    priors: Annotated[
        PriorBy,
        typer.Option(
            help="Whether it is asked for earlier studies to compare with, and how it hands them over: by C-GET, or by "
            "C-MOVE to our AE title for them (priors.ae_title), which it must know."
        ),
    ] = PriorBy.NO,
    address: Annotated[
        list[str] | None,
        typer.Option(help="An address, network (10.1.0.0/16) or host name that it may call from; default: its host."),
    ] = None,
    profile: Annotated[
        str, typer.Option(help="Its own output profile in place of the rules'; see `umit-pacs profiles list`.")
    ] = "",
    retire: Annotated[
        RetireBy,
        typer.Option(
            help="How it is told that a draft does not stand any more: by a rejection note (IHE IOCM) where it hides "
            "or deletes what such a note names, else by a notice that people read."
        ),
    ] = RetireBy.NOTICE,
    final_reports: Annotated[
        RetrieveBy,
        typer.Option(
            help="It is asked for the final reports of drafted studies: get (C-GET), or move (C-MOVE, where it knows "
            "this node's AE title and may send to it)."
        ),
    ] = RetrieveBy.NO,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Add a peer, or change the one of this name. A running node knows it at once."""
    from umit_pacs.result_objects.profiles import kinds_of
    from umit_pacs.store.peers import Peer

    settings = settings_from(config)
    _require_valid(name, ae_title, host, address or [])
    if profile:
        kinds_of(profile, settings.compose.profiles)
    peer = Peer(
        name=name,
        ae_title=ae_title,
        host=host,
        port=port,
        may_send=sends,
        receives_results=receives,
        answers_query=bool(query),
        answers_commitment=bool(commitment),
        addresses=tuple(address or ()),
        retire_by=retire,
        profile=profile,
        priors_by=priors,
        reports_by=final_reports,
    )
    if final_reports is RetrieveBy.MOVE and not sends:
        raise InvalidConfiguration("--final-reports move: what it moves is refused with --no-sends")
    if query is None or commitment is None:
        peer = _with_what_it_offers(peer, settings, query=query, commitment=commitment)
    _store(peer, settings)
    if as_json:
        print_json(dataclasses.asdict(peer))
        return
    console.print(f"Peer {name} is known: {peer.ae_title} at {peer.host}:{peer.port}.", markup=False, soft_wrap=True)
    console.print(f"  C-FIND: {_yes(peer.answers_query)}, storage commitment: {_yes(peer.answers_commitment)}")
    if peer.priors_by is PriorBy.MOVE:
        title = f"{settings.priors.ae_title} with port {settings.listener.port}"
        console.print(f"  There, register {title} for earlier studies.", markup=False, soft_wrap=True)
    if refused := _refused_retrieval(peer, settings):
        error_console.print(refused, markup=False, soft_wrap=True)
    console.print(
        f"  There, register {settings.listener.ae_title} with port {settings.listener.port}.",
        markup=False,
        soft_wrap=True,
    )


def add_reporting_system(
    name: NameArgument,
    url: Annotated[
        str,
        typer.Argument(
            help="mllps://HOST:PORT for HL7 v2, https://HOST/PATH for FHIR R4; mllp and http to this machine only."
        ),
    ],
    ca_file: Annotated[
        Path | None, typer.Option(help="Certificate authority of its certificate instead of the system's.")
    ] = None,
    certificate_file: Annotated[
        Path | None, typer.Option(help="Certificate (PEM) that this node shows to a system that demands one.")
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="Its private key (PEM), without passphrase; default: in the same file.")
    ] = None,
    token: Annotated[
        str, typer.Option(help="Where the bearer token for a FHIR server is, env:NAME or file:PATH.")
    ] = "",
    sending_application: Annotated[str, typer.Option(help="MSH-3 of messages to it; default: UMIT PACS.")] = "",
    sending_facility: Annotated[str, typer.Option(help="MSH-4; default: the institution's name.")] = "",
    receiving_application: Annotated[str, typer.Option(help="MSH-5.")] = "",
    receiving_facility: Annotated[str, typer.Option(help="MSH-6.")] = "",
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Add a reporting system, which gets drafts as preliminary reports, or change the one of this name."""
    from umit_pacs.store.peers import MessageAddresses, reporting_system

    settings = settings_from(config)
    _require_name(name)
    kind, _, where = token.partition(":")
    try:
        peer = reporting_system(
            name,
            url,
            ca_file=_existing("--ca-file", ca_file),
            certificate_file=_existing("--certificate-file", certificate_file),
            key_file=_existing("--key-file", key_file),
            token=f"file:{_existing('--token', Path(where))}" if kind == "file" else token,
            message_addresses=MessageAddresses(
                sending_application=sending_application,
                sending_facility=sending_facility,
                receiving_application=receiving_application,
                receiving_facility=receiving_facility,
            ),
        )
    except ValueError as exc:
        raise InvalidConfiguration(f"{url}: {exc}") from exc
    _require_certificate(peer)
    _store(peer, settings)
    if as_json:
        print_json(dataclasses.asdict(peer))
        return
    console.print(f"Reporting system {name} is known: {peer.url}.", markup=False, soft_wrap=True)
    console.print("  A rule that names it as destination sends it drafts.")


def _existing(option: str, path: Path | None) -> str:
    """The whole path of a file that an option names; "" for none. Raises InvalidConfiguration."""
    if path is not None and not path.is_file():
        raise InvalidConfiguration(f"{option}: there is no file {path}")
    return "" if path is None else str(path.resolve())


def _require_certificate(peer: Peer) -> None:
    """Raise InvalidConfiguration unless the certificate that the peer is to be shown can be used."""
    from umit_pacs.reporting_systems.connecting import load_certificate

    if peer.certificate_file:
        load_certificate(ssl.create_default_context(), peer.certificate_file, peer.key_file)


def remove(name: NameArgument, config: ConfigOption = None, as_json: JSONOption = False) -> None:
    """Remove a peer; what was sent to it stays on record."""
    from umit_pacs.store.database import open_catalogue
    from umit_pacs.store.peers import remove_peer

    catalogue = open_catalogue(settings_from(config).catalogue_url)
    try:
        is_removed = remove_peer(catalogue, name)
    finally:
        catalogue.close()
    if not is_removed:
        raise InvalidConfiguration(f"there is no peer {name!r}; see `umit-pacs peers list`")
    if as_json:
        print_json({"removed": name})
    else:
        console.print(f"Peer {name} is removed.", markup=False, soft_wrap=True)


def echo(
    names: Annotated[list[str] | None, typer.Argument(help="Names of peers; default: all.")] = None,
    config: ConfigOption = None,
    as_json: JSONOption = False,
) -> None:
    """Ask peers by C-ECHO, or reporting systems by a connection, whether they are there; exit status 1 if not.

    DICOM peers are also asked which of the SOP classes that their drafts need they refuse; nothing is sent.
    """
    settings = settings_from(config)
    known = _known(settings)
    if missing := sorted(set(names or ()) - {peer.name for peer in known}):
        raise InvalidConfiguration(f"there is no peer {', '.join(missing)}; see `umit-pacs peers list`")
    rules = _rules(settings)
    answers = [_echo(peer, rules, settings) for peer in known if not names or peer.name in names]
    if as_json:
        print_json(answers)
    else:
        table = Table("Peer", "Answers", "After", "Does not take", "Why not")
        for answer in answers:
            after = f"{answer['milliseconds']:.0f} ms" if answer["is_answering"] else ""
            cells = (", ".join(answer["does_not_take"]), escape(answer["detail"]))
            table.add_row(escape(answer["peer"]), _yes(answer["is_answering"]), after, *cells)
        console.print(table)
    raise typer.Exit(0 if all(answer["is_answering"] for answer in answers) else 1)


def _echo(peer: Peer, rules: RuleSet, settings: Settings) -> dict[str, Any]:
    from umit_pacs.cli.peer_needs import refused_names
    from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress
    from umit_pacs.dicom_network.query import echo as c_echo
    from umit_pacs.reporting_systems.connecting import reach, system_of

    wait_s = settings.deliver.connect_timeout_s
    timeouts = NetworkTimeouts(connect_s=wait_s, response_s=wait_s)
    refused: tuple[str, ...] = ()
    started, failure = time.monotonic(), ""
    try:
        if peer.url:
            reach(system_of(peer), timeouts)
        else:
            address = PeerAddress(ae_title=peer.ae_title, host=peer.host, port=peer.port)
            c_echo(address, calling_ae_title=settings.listener.ae_title, timeouts=timeouts)
        taken_ms = round((time.monotonic() - started) * 1000, 1)
        refused = () if peer.url else refused_names(peer, rules, settings, timeouts=timeouts)
    except UmitPacsError as exc:
        failure, taken_ms = exc.detail, round((time.monotonic() - started) * 1000, 1)
    return {
        "peer": peer.name,
        "is_answering": not failure,
        "milliseconds": taken_ms,
        "detail": failure,
        "does_not_take": refused,
    }


def _with_what_it_offers(peer: Peer, settings: Settings, *, query: bool | None, commitment: bool | None) -> Peer:
    """The peer with C-FIND and storage commitment as it accepts them now; what was given stays."""
    from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress
    from umit_pacs.dicom_network.sender import refused_classes

    find, commit = _FIND, "1.2.840.10008.1.20.1"
    wait_s = settings.deliver.connect_timeout_s
    try:
        refused = refused_classes(
            PeerAddress(ae_title=peer.ae_title, host=peer.host, port=peer.port),
            (find, commit),
            calling_ae_title=settings.listener.ae_title,
            timeouts=NetworkTimeouts(connect_s=wait_s, response_s=wait_s),
        )
    except UmitPacsError as exc:
        error_console.print(
            f"{exc.detail}. It is taken to answer neither C-FIND nor storage commitment unless you say so.",
            markup=False,
            soft_wrap=True,
        )
        return peer
    return dataclasses.replace(
        peer,
        answers_query=find not in refused if query is None else query,
        answers_commitment=commit not in refused if commitment is None else commitment,
    )


def _refused_retrieval(peer: Peer, settings: Settings) -> str:
    """What the peer does not accept of what it takes to ask it for earlier studies, in words; "" for nothing."""
    from umit_pacs.cli.peer_needs import RETRIEVAL
    from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress
    from umit_pacs.dicom_network.sender import refused_classes

    if peer.priors_by is PriorBy.NO:
        return ""
    operations = ("C-FIND", f"C-{peer.priors_by.value.upper()}")
    needed = dict(zip(RETRIEVAL[peer.priors_by], operations, strict=True))
    wait_s = settings.deliver.connect_timeout_s
    try:
        refused = refused_classes(
            PeerAddress(ae_title=peer.ae_title, host=peer.host, port=peer.port),
            tuple(needed),
            calling_ae_title=settings.listener.ae_title,
            timeouts=NetworkTimeouts(connect_s=wait_s, response_s=wait_s),
        )
    except UmitPacsError as exc:
        return f"{exc.detail}. Whether it hands over earlier studies could not be asked."
    listed = " and ".join(needed[uid] for uid in refused)
    return (
        f"It does not accept {listed} from {settings.listener.ae_title}: no earlier study will come." if listed else ""
    )


def _require_valid(name: str, ae_title: str, host: str, addresses: list[str]) -> None:
    """Raise InvalidConfiguration unless the words can be what they stand for."""
    _require_name(name)
    try:
        TypeAdapter[str](AETitle).validate_python(ae_title)
    except ValidationError as exc:
        raise InvalidConfiguration(f"--ae-title: {exc.errors()[0]['msg']}") from exc
    for option, word in (("--host", host), *(("--address", item) for item in addresses)):
        if not word or any(character.isspace() for character in word):
            raise InvalidConfiguration(f"{option}: {word!r} is no address")
        if "/" in word:
            try:
                ipaddress.ip_network(word, strict=False)
            except ValueError as exc:
                raise InvalidConfiguration(f"{option}: {exc}") from exc
            if option == "--host":
                raise InvalidConfiguration("--host: one address, not a network")


def _require_name(name: str) -> None:
    if name == SENDER or not name.strip() or name != name.strip() or len(name) > 64:
        raise InvalidConfiguration(f"name: {name!r} cannot name a peer (`{SENDER}` stands for whoever sent a study)")


def _known(settings: Settings) -> tuple[Peer, ...]:
    from umit_pacs.store.database import open_catalogue
    from umit_pacs.store.peers import peers

    catalogue = open_catalogue(settings.catalogue_url)
    try:
        return peers(catalogue)
    finally:
        catalogue.close()


def _rules(settings: Settings) -> RuleSet:
    from umit_pacs.cli.peer_needs import rules_in_force
    from umit_pacs.store.database import open_catalogue

    catalogue = open_catalogue(settings.catalogue_url)
    try:
        return rules_in_force(catalogue)
    finally:
        catalogue.close()


def _store(peer: Peer, settings: Settings) -> None:
    from umit_pacs.store.database import migrate, open_catalogue
    from umit_pacs.store.peers import add_peer

    migrate(settings.catalogue_url)
    catalogue = open_catalogue(settings.catalogue_url)
    try:
        add_peer(catalogue, peer)
    finally:
        catalogue.close()


def _asked_for(peer: Peer) -> Iterator[str]:
    """What it answers, and what the node has it hand over."""
    if peer.answers_query:
        yield "C-FIND"
    if peer.answers_commitment:
        yield "commitment"
    for what, way in {"earlier studies": peer.priors_by.value, "final reports": peer.reports_by.value}.items():
        if way != "no":
            yield f"{what} (C-{way.upper()})"


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"
