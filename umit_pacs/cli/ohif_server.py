"""The OHIF viewer at a loopback address: its prebuilt files, and Orthanc's DICOMweb behind the same origin.

OHIF's build expects to sit at the root of an origin, so Orthanc cannot serve it below a folder of its own.
`deploy/install-ohif` brings the files.
"""

from __future__ import annotations

import http.client
import json
import mimetypes
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

VERSION = "3.13.2"
_ARCHIVE_TIMEOUT_S = 120.0
_PASSED_ON = ("/dicom-web/", "/wado")
#: Of one connection only, or set anew here.
_NOT_PASSED_ON = frozenset({"connection", "content-length", "host", "keep-alive", "transfer-encoding"})
#: What the browser wants before it lets a page's workers share memory.
_ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
#: With `pdf` in `singlepart` OHIF asks for `/rendered`, which Orthanc's plugin refuses.
_SOURCE = {
    "friendlyName": "Orthanc",
    "name": "orthanc",
    "wadoUriRoot": "/wado",
    "qidoRoot": "/dicom-web",
    "wadoRoot": "/dicom-web",
    "qidoSupportsIncludeField": True,
    "supportsReject": False,
    "imageRendering": "wadors",
    "thumbnailRendering": "wadors",
    "enableStudyLazyLoad": True,
    "supportsFuzzyMatching": False,
    "supportsWildcard": True,
    "singlepart": "bulkdata,video",
    "bulkDataURI": {"enabled": True, "relativeResolution": "studies"},
    "omitQuotationForMultipartRequest": True,
}
_CONFIGURATION = {
    "routerBasename": "/",
    "extensions": [],
    "modes": [],
    "showStudyList": True,
    "maxNumberOfWebWorkers": 2,
    "showWarningMessageForCrossOrigin": False,
    "showCPUFallbackMessage": False,
    "showLoadingIndicator": True,
    "strictZSpacingForVolumeViewport": True,
    "investigationalUseDialog": {"option": "never"},
    "disableConfirmationPrompts": True,
    "maxNumRequests": {"interaction": 10, "thumbnail": 4, "prefetch": 4},
    "defaultDataSourceName": "dicomweb",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "dicomweb",
            "configuration": _SOURCE,
        }
    ],
}


def find_ohif() -> Path | None:
    """The folder of OHIF's files in this Python environment, None where it is not installed."""
    folder = Path(sys.prefix) / "share" / f"ohif-{VERSION}"
    return folder if (folder / "index.html").is_file() else None


def view_path(study_instance_uid: str, series_instance_uid: str = "") -> str:
    """Path and query of a view without guided tour; `series_instance_uid`: a result to open over its images."""
    first = f"&initialSeriesInstanceUID={series_instance_uid}" if series_instance_uid else ""
    return f"/basic?StudyInstanceUIDs={study_instance_uid}{first}"


@contextmanager
def serving_ohif(folder: Path, archive_url: str, *, port: int = 0) -> Iterator[str]:
    """Serve OHIF and the DICOMweb of the Orthanc at `archive_url`; yields the viewer's address.

    port: 0 for one that the system chooses. Loopback only.
    """
    mimetypes.add_type("application/wasm", ".wasm")
    mimetypes.add_type("text/javascript", ".js")

    class Handler(_Handler):
        files = folder.resolve()
        archive = urlsplit(archive_url).netloc

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, name="ohif", daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: Path
    #: host and port of Orthanc.
    archive: str

    def do_GET(self) -> None:
        if self.path.startswith(_PASSED_ON):
            self._pass_on()
        else:
            self._send_file(urlsplit(self.path).path)

    def do_POST(self) -> None:
        self._pass_on()

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: addresses hold identifiers of studies."""

    def _pass_on(self) -> None:
        """Ask Orthanc the same; the addresses that it writes into its JSON become those of this server."""
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _NOT_PASSED_ON}
        connection = http.client.HTTPConnection(self.archive, timeout=_ARCHIVE_TIMEOUT_S)
        try:
            connection.request(self.command, self.path, content or None, headers | {"Accept-Encoding": "identity"})
            response = connection.getresponse()
            body = response.read()
            named = dict(response.getheaders())
        except OSError:
            self.send_error(502)
            return
        finally:
            connection.close()
        if "json" in named.get("Content-Type", ""):
            body = body.replace(f"//{self.archive}/".encode(), f"//{self.headers['Host']}/".encode())
        self._send(response.status, body, {k: v for k, v in named.items() if k.lower() not in _NOT_PASSED_ON})

    def _send_file(self, path: str) -> None:
        """A file of OHIF; every other path is a view, which the page itself makes of the address."""
        if path == "/app-config.js":
            configuration = f"window.config = {json.dumps(_CONFIGURATION)};"
            self._send(200, configuration.encode(), {"Content-Type": "text/javascript"})
            return
        file = (self.files / path.lstrip("/")).resolve()
        if not (file.is_relative_to(self.files) and file.is_file()):
            file = self.files / "index.html"
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        self._send(200, file.read_bytes(), {"Content-Type": kind})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | _ISOLATION | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
