"""OHIF driven in a headless Chromium: opens a result as a person would, says what went wrong, and takes its picture."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Page, sync_playwright

from umit_pacs.cli.ohif_server import view_path
from umit_pacs.errors import PeerUnavailable

#: On a busy machine of two cores a view takes half a minute.
VIEW_LIMIT_S = 120.0
#: Longest wait for a view to come to rest once it shows what was asked for.
_REST_LIMIT_S = 20.0
_TURN_LIMIT_S = 60.0
#: WebGL without a graphics card, and nothing that asks the network by itself.
_ARGUMENTS = (
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)
#: The viewport that OHIF shows images in; small ones of its list of series have other names.
_VIEWPORT = """
const viewport = (window.cornerstone?.getRenderingEngines() ?? [])
  .flatMap(engine => engine.getViewports()).find(one => one.element?.closest('[data-cy="viewport-pane"]'));
"""
_IS_SHOWN = {
    "text": "() => document.querySelector('[data-cy=\"viewport-pane\"]')?.innerText.length > 200",
    "image": f"() => {{ {_VIEWPORT} return viewport?.viewportStatus === 'rendered'; }}",
    "regions": f"""() => {{ {_VIEWPORT} return viewport?.viewportStatus === 'rendered'
      && window.cornerstoneTools.annotation.state.getAllAnnotations().length > 0; }}""",
    "segments": f"""() => {{ {_VIEWPORT} return viewport?.viewportStatus === 'rendered'
      && window.cornerstoneTools.segmentation.state.getSegmentationRepresentations(viewport.id).length > 0; }}""",
}
_ON_SCREEN = f"""(places) => {{ {_VIEWPORT}
  const pane = viewport.canvas.getBoundingClientRect();
  return places.map(place => viewport.worldToCanvas(place)).map(([x, y]) => [x + pane.left, y + pane.top]);
}}"""

_IMAGE_ON_SCREEN = f"""(places) => {{ {_VIEWPORT}
  const pane = viewport.canvas.getBoundingClientRect(), image = viewport.getCurrentImageId();
  return places.map(place => viewport.worldToCanvas(window.cornerstone.utilities.imageToWorldCoords(image, place)))
    .map(([x, y]) => [x + pane.left, y + pane.top]);
}}"""

#: OHIF may put a new viewport in the place of the first; what is touched has to have been there at the last look, too.
_TURN_TO = f"""(uid) => {{ {_VIEWPORT}
  const isNew = window.lastViewport !== viewport;
  window.lastViewport = viewport;
  if (isNew || !viewport) return false;
  if (viewport.getCurrentImageId()?.includes(uid)) return viewport.viewportStatus === 'rendered';
  const index = viewport.getImageIds().findIndex(id => id.includes(uid));
  if (index >= 0) viewport.setImageIdIndex(index);
  return false;
}}"""


#: OHIF exchanges its viewport while a result is loading; what still wanted to draw in the first one complains, and the
#: second one draws. Nothing is missing from the window.
_EXCHANGED = "The stack viewport has been destroyed"


def find_chromium() -> str | None:
    """Path of Debian's Chromium, None where it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@dataclass(kw_only=True)
class Viewer:
    """One browser window with OHIF."""

    address: str
    page: Page
    #: errors of the console, of the page and of its requests since the window was opened.
    faults: list[str] = field(default_factory=list)

    def show(self, study_instance_uid: str, series_instance_uid: str, what: str) -> None:
        """Open a series (a result over its images) and wait until it is seen and has come to rest.

        what: text, image, regions or segments. Raises PeerUnavailable when it is not seen in time.
        """
        try:
            self.page.goto(self.address + view_path(study_instance_uid, series_instance_uid))
            self.page.wait_for_function(_IS_SHOWN[what], timeout=VIEW_LIMIT_S * 1000)
        except PlaywrightError as exc:
            raise PeerUnavailable(f"OHIF shows no {what}: {'; '.join(self.faults[:3]) or 'nothing came'}") from exc
        self._rest()

    def save(self, path: Path) -> Path:
        """The window as a PNG file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.page.screenshot())
        return path

    def text(self) -> str:
        """What is written in the part of the window that shows the series."""
        return self.page.inner_text('[data-cy="viewport-pane"]')

    def on_screen(self, places_mm: list[list[float]]) -> list[tuple[float, float]]:
        """Pixels (x, y) of the window where the viewer has places of the patient, mm."""
        return [(float(x), float(y)) for x, y in self.page.evaluate(_ON_SCREEN, places_mm)]

    def image_on_screen(self, places_px: list[tuple[float, float]]) -> list[tuple[float, float]]:
        """The same of places in the image, for one that has no place in the patient."""
        return [(float(x), float(y)) for x, y in self.page.evaluate(_IMAGE_ON_SCREEN, places_px)]

    def turn_to(self, sop_instance_uid: str) -> None:
        """Show this slice of the series that is open. Raises PeerUnavailable when the viewer does not hold it."""
        try:
            self.page.wait_for_function(_TURN_TO, arg=sop_instance_uid, polling=500, timeout=_TURN_LIMIT_S * 1000)
        except PlaywrightError as exc:
            raise PeerUnavailable("OHIF cannot show the slice") from exc
        self._rest()

    def _rest(self) -> None:
        """Wait until two pictures in a row are the same."""
        deadline, last = time.monotonic() + _REST_LIMIT_S, b""
        while (now := self.page.screenshot()) != last and time.monotonic() < deadline:
            last = now
            self.page.wait_for_timeout(400)


@contextmanager
def open_viewer(address: str, *, width: int = 1200, height: int = 800) -> Iterator[Viewer]:
    """A browser window onto the OHIF at `address`. Raises PeerUnavailable where there is no browser."""
    chromium = find_chromium()
    if chromium is None:
        raise PeerUnavailable("Chromium is not installed")
    # Chromium's sandbox refuses to work for root.
    arguments = [*_ARGUMENTS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        except PlaywrightError as exc:
            raise PeerUnavailable("Chromium does not start") from exc
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            viewer = Viewer(address=address, page=page)
            _listen(page, viewer.faults)
            yield viewer
        finally:
            browser.close()


def _listen(page: Page, faults: list[str]) -> None:
    """Note what goes wrong; addresses are cut off, for they hold identifiers."""

    def note(text: str) -> None:
        if _EXCHANGED not in text:
            faults.append(text[:300])

    page.on("console", lambda message: note(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: note(str(error)))
    page.on(
        "response", lambda answer: faults.append(f"HTTP {answer.status} {answer.url}") if answer.status >= 400 else None
    )
