"""The receive process: the DICOM listener. It loads neither the model's libraries nor those of the result objects."""

from __future__ import annotations

import contextlib
from multiprocessing.connection import Connection

from pydicom import config as pydicom_config

from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress
from umit_pacs.dicom_network.query import echo
from umit_pacs.errors import PeerRefused
from umit_pacs.node.lifecycle import Lifecycle
from umit_pacs.settings import Settings
from umit_pacs.steps.receive import Receiver
from umit_pacs.store.database import open_catalogue
from umit_pacs.store.files import PayloadFiles

#: where to call ourselves when we listen on every address
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


def run_receive(settings: Settings, process_name: str = "receive", *, supervisor: Connection | None = None) -> None:
    """Run the listener until it is told to stop; then let running associations end within the grace."""
    life = Lifecycle.begin(settings, process_name, supervisor)
    # Receiving judges what it uses of a data set itself; pydicom would check every value of every command set again.
    pydicom_config.settings.reading_validation_mode = pydicom_config.IGNORE
    receiver = Receiver(settings, open_catalogue(settings.catalogue_url), PayloadFiles(settings.store.folder))
    receiver.start()
    echo_ourselves(settings, receiver.port)
    life.ready()
    life.stop.wait()
    receiver.stop(settings.serve.shutdown_grace_s)
    life.end()


def echo_ourselves(settings: Settings, port: int) -> None:
    """Call our own listener as a peer would. Raises PeerUnavailable when it does not answer.

    A refusal is an answer too: our own AE title need not be among the peers.
    """
    listener = settings.listener
    address = PeerAddress(ae_title=listener.ae_title, host=_ANY_ADDRESS.get(listener.host, listener.host), port=port)
    timeouts = NetworkTimeouts(connect_s=listener.association_timeout_s, response_s=listener.network_timeout_s)
    with contextlib.suppress(PeerRefused):
        echo(address, calling_ae_title=listener.ae_title, timeouts=timeouts)
