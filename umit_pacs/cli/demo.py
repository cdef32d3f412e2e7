"""The demo: a PACS, the node and sample studies on this machine, from push to draft."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from umit_pacs.cli.checks import is_node_answering
from umit_pacs.cli.demo_archive import Archive, find_orthanc, free_port, running_orthanc
from umit_pacs.cli.demo_page import write_page
from umit_pacs.cli.demo_report import save_pictures, study_table
from umit_pacs.cli.demo_viewer import offered_viewer, viewer_pictures
from umit_pacs.cli.options import console, error_console
from umit_pacs.cli.sample_studies import (
    SampleStudy,
    write_chest_ct,
    write_radiograph,
    write_simulated_ct,
    write_simulated_radiograph,
)
from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress
from umit_pacs.dicom_network.embedded_archive import AE_TITLE as EMBEDDED_AE_TITLE
from umit_pacs.dicom_network.embedded_archive import EmbeddedArchive
from umit_pacs.dicom_network.sender import send_objects
from umit_pacs.dicom_network.statuses import Outcome
from umit_pacs.errors import OperatorMustAct, PeerUnavailable
from umit_pacs.handoffs import Language, StudyUID
from umit_pacs.routing.rules_text import default_rules_text
from umit_pacs.settings import load_settings
from umit_pacs.states import END_STATES
from umit_pacs.store.database import migrate, open_catalogue
from umit_pacs.store.peers import Peer, add_peer
from umit_pacs.store.rules import publish_rules
from umit_pacs.store.stories import StudyStory, story

#: Longest wait for all drafts to be confirmed.
DEMO_LIMIT_S = 600.0
#: What the PACS gets: all that the viewer shows of a draft, and its pages.
PROFILE = ("text_report", "measurement_report", "secondary_capture", "segmentation")
#: Of a patient with an effusion on the left, which umit-demo has learned to see, and nodules, which it has not.
SIMULATED_SEED = 11
#: Of a patient with a mass of 4 cm in the left lung.
SIMULATED_CT_SEED = 37


def run_demo(folder: Path, *, language: Language, is_kept: bool, is_embedded: bool = False) -> None:
    """The whole demo, in order; raises UmitPacsError that says what went wrong."""
    prepare_folder(folder)
    folder = folder.resolve()
    with ExitStack() as stack:
        progress = stack.enter_context(progress_display())
        samples = write_samples(folder / "samples", progress)
        node = DemoNode(folder=folder, language=language)
        archive = stack.enter_context(running_archive(folder / "pacs", node.port, is_embedded=is_embedded))
        node.configure(archive)
        stack.enter_context(node.running(progress))
        push(samples, archive, progress)
        stories = node.wait_for_drafts(samples, progress)
        pictures = save_pictures(archive, samples, folder / "pictures")
        progress.stop()
        console.print(study_table(samples, stories, archive))
        viewer = stack.enter_context(offered_viewer(archive))
        pictures += [shown.path for shown in viewer_pictures(viewer, archive, samples, folder / "pictures")]
        page = write_page(folder / "report.html", samples, stories, pictures)
        for picture in pictures:
            console.print(f"  picture  {picture}", highlight=False)
        console.print(f"  report   {page}", highlight=False)
        console.print(f"  node     umit-pacs why STUDY --config {node.config}", highlight=False)
        kept = "" if is_kept else "   (with --keep)"
        if archive.web_url:
            console.print(f"  PACS     {archive.web_url}/app/explorer.html{kept}", highlight=False)
        if viewer:
            console.print(f"  OHIF     {viewer}{kept}", highlight=False)
        if is_kept:
            console.print("Everything keeps running; Ctrl-C ends it.")
            wait_for_interrupt()


def prepare_folder(folder: Path) -> None:
    """Make `folder` new; a folder that holds something else than an earlier demo is left alone.

    Raises OperatorMustAct then.
    """
    marker = folder / ".umit-pacs-demo"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise OperatorMustAct(
            f"{folder} holds something that no demo made; name another --folder", reason="folder_in_use"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    marker.touch()


def progress_display() -> Progress:
    """One line per piece of work, with what is done and how long it took."""
    columns = (
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=error_console)


def write_samples(folder: Path, progress: Progress) -> tuple[SampleStudy, ...]:
    """The demo's studies as files."""
    line = progress.add_task("Write the sample studies", total=136)

    def show(done: int, _: int) -> None:
        progress.update(line, completed=done)

    chest_ct = write_chest_ct(folder / "ct", on_slice=show)
    radiograph = write_radiograph(folder / "radiograph")
    progress.advance(line)
    simulated = write_simulated_radiograph(folder / "simulated", seed=SIMULATED_SEED)
    progress.advance(line)
    simulated_ct = write_simulated_ct(folder / "simulated-ct", seed=SIMULATED_CT_SEED)
    progress.advance(line)
    return simulated, simulated_ct, radiograph, chest_ct


@contextmanager
def running_archive(folder: Path, node_port: int, *, is_embedded: bool = False) -> Iterator[Archive]:
    """Orthanc where it is installed, else (or when wanted) the embedded archive, and a line that says so."""
    if find_orthanc() is not None and not is_embedded:
        with running_orthanc(folder, node_port=node_port) as archive:
            yield archive
        return
    missing = "" if is_embedded else "Orthanc is not installed: "
    console.print(f"[yellow]{missing}An embedded archive on loopback stands in for the PACS.[/]")
    with EmbeddedArchive(folder, node=("127.0.0.1", node_port, "UMIT")) as embedded:
        yield Archive(
            name="embedded archive",
            ae_title=EMBEDDED_AE_TITLE,
            host="127.0.0.1",
            dicom_port=embedded.port,
            web_url="",
            files_of=embedded.files_of,
        )


#: a modality sends again what its archive did not take
_SEND_ATTEMPTS = 3


def push(samples: tuple[SampleStudy, ...], archive: Archive, progress: Progress) -> None:
    """Send the samples to the PACS, as the modalities would."""
    paths = [sorted(sample.folder.glob("*.dcm")) for sample in samples]
    line = progress.add_task(f"Send the studies to {archive.name}", total=sum(map(len, paths)))
    address = PeerAddress(ae_title=archive.ae_title, host=archive.host, port=archive.dicom_port)
    for study in paths:
        left = study
        for _ in range(_SEND_ATTEMPTS):
            outcomes = send_objects(
                left, address, calling_ae_title="MODALITY", timeouts=NetworkTimeouts(response_s=20.0)
            )
            left = [path for path, sent in zip(left, outcomes, strict=True) if sent.outcome is not Outcome.STORED]
            if not left:
                break
        else:
            raise PeerUnavailable(f"{archive.name} did not take {len(left)} of {len(study)} objects")
        progress.advance(line, len(study))


def wait_for_interrupt() -> None:
    """Block until Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        signal.pause()
    except KeyboardInterrupt:
        console.print("Stopping.")


@dataclass(kw_only=True)
class DemoNode:
    """A node in a folder of its own, run by `umit-pacs serve` as an administrator would."""

    folder: Path
    language: Language

    def __post_init__(self) -> None:
        self.port = free_port()
        self.config = self.folder / "node.toml"

    def configure(self, archive: Archive) -> None:
        """Write node.toml, name the PACS as a peer and publish the shipped rules in the demo's language."""
        self.config.write_text(
            f'[store]\nfolder = "node"\nminimum_free_bytes = {64 * 1024**2}\n\n[listener]\nport = {self.port}\n\n'
            "[assemble]\nquiet_period_s = 3.0\n\n"
            f"[compose.profiles]\ndemo = {json.dumps(PROFILE)}\n",
            encoding="utf-8",
        )
        settings = load_settings(self.config)
        migrate(settings.catalogue_url)
        peer = Peer(
            name="PACS",
            ae_title=archive.ae_title,
            host=archive.host,
            port=archive.dicom_port,
            may_send=True,
            receives_results=True,
            answers_query=True,
            answers_commitment=bool(archive.web_url),
            profile="demo",
        )
        with closing(open_catalogue(settings.catalogue_url)) as catalogue:
            add_peer(catalogue, peer)
            publish_rules(
                catalogue, default_rules_text(self.language), author="umit-pacs demo", comment="the demo's rules"
            )

    @contextmanager
    def running(self, progress: Progress) -> Iterator[None]:
        """Run the node; yield once its listener answers C-ECHO; stop it gracefully."""
        line = progress.add_task("Start the node", total=1)
        log_path = self.folder / "node.log"
        command = [sys.executable, "-m", "umit_pacs", "serve", "--config", str(self.config)]
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | {"TCP_NODELAY": "1"}
            )
            try:
                settings = load_settings(self.config)
                wait_until(
                    lambda: is_node_answering(settings),
                    process=process,
                    what=f"the node to answer C-ECHO; its log is {log_path}",
                )
                progress.advance(line)
                yield
            finally:
                process.terminate()
                process.wait(timeout=60)

    def wait_for_drafts(self, samples: tuple[SampleStudy, ...], progress: Progress) -> tuple[StudyStory, ...]:
        """The story of every sample once it has come to an end."""
        lines = {sample: progress.add_task(f"{sample.name}: waiting for the PACS", total=1) for sample in samples}
        with closing(open_catalogue(load_settings(self.config).catalogue_url)) as catalogue:
            deadline = time.monotonic() + DEMO_LIMIT_S
            while time.monotonic() < deadline:
                stories = tuple(story(catalogue, StudyUID(sample.study_instance_uid)) for sample in samples)
                ended = [_show_state(progress, lines[s], s, told) for s, told in zip(samples, stories, strict=True)]
                if all(ended):
                    return tuple(told for told in stories if told is not None)
                time.sleep(0.25)
        raise PeerUnavailable(
            f"not every draft was confirmed within {DEMO_LIMIT_S:.0f} s; see {self.folder / 'node.log'}"
        )


def _show_state(progress: Progress, line: TaskID, sample: SampleStudy, told: StudyStory | None) -> bool:
    """Show where the study is; True when it has come to an end."""
    if told is None or not told.input_sets:
        return False
    state = told.input_sets[-1].state
    is_ended = state in END_STATES
    progress.update(line, description=f"{sample.name}: {state}", completed=int(is_ended))
    return is_ended


def wait_until(condition: Callable[[], bool], *, process: subprocess.Popen[bytes], what: str) -> None:
    """Wait for `condition` while `process` runs; raises PeerUnavailable that says `what` was waited for."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.2)
    raise PeerUnavailable(f"waited in vain for {what}")
