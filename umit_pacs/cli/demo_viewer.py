"""OHIF over the demo's PACS: its address, and pictures of the drafts as it shows them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from pydicom.uid import SegmentationStorage

from umit_pacs.cli.demo_archive import Archive
from umit_pacs.cli.ohif_server import find_ohif, serving_ohif
from umit_pacs.cli.options import console
from umit_pacs.cli.sample_studies import SampleStudy
from umit_pacs.errors import PeerUnavailable
from umit_pacs.handoffs import ObjectKind
from umit_pacs.result_objects.provenance import SERIES_NUMBERS

#: No further picture is begun after so long.
PICTURES_LIMIT_S = 60.0
#: What the viewer shows of each kind, the most telling first.
_SHOWN = {
    ObjectKind.SEGMENTATION: "segments",
    ObjectKind.MEASUREMENT_REPORT: "regions",
    ObjectKind.TEXT_REPORT: "text",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewerPicture:
    """One result as the viewer shows it."""

    study_instance_uid: str
    kind: ObjectKind
    path: Path


@contextmanager
def offered_viewer(archive: Archive) -> Iterator[str]:
    """The address of OHIF over the archive; "" and a line that says why where it cannot be offered."""
    folder = find_ohif()
    if folder is None or not archive.web_url:
        missing = "the embedded archive has no DICOMweb" if folder else "it is not installed"
        console.print(f"[yellow]No OHIF: {missing}.[/]")
        yield ""
        return
    with serving_ohif(folder, archive.web_url) as address:
        yield address


def viewer_pictures(
    address: str, archive: Archive, samples: Sequence[SampleStudy], folder: Path
) -> tuple[ViewerPicture, ...]:
    """Pictures of the results in `folder`: the text of the first study, masks and boxes of all; as time allows."""
    if not address:
        return ()
    if find_spec("playwright") is None:
        console.print("[yellow]No pictures of the viewer: playwright is not installed.[/]")
        return ()
    from umit_pacs.cli.viewer import open_viewer

    views = [view for view in _views(archive, samples[0]) if view[1] is ObjectKind.TEXT_REPORT]
    views += [view for sample in samples for view in _views(archive, sample) if view[1] is not ObjectKind.TEXT_REPORT]
    pictures: list[ViewerPicture] = []
    deadline = time.monotonic() + PICTURES_LIMIT_S
    try:
        with open_viewer(address) as viewer:
            for sample, kind, series in views:
                if time.monotonic() > deadline:
                    break
                viewer.show(sample.study_instance_uid, series, _SHOWN[kind])
                if kind is ObjectKind.SEGMENTATION:
                    viewer.turn_to(_fullest_slice(archive, sample))
                path = viewer.save(folder / f"viewer-{sample.name.replace(' ', '-')}-{kind}.png")
                pictures.append(ViewerPicture(study_instance_uid=sample.study_instance_uid, kind=kind, path=path))
    except PeerUnavailable as exc:
        console.print(f"[yellow]No more pictures of the viewer: {exc.detail}.[/]")
    return tuple(pictures)


def _views(archive: Archive, sample: SampleStudy) -> list[tuple[SampleStudy, ObjectKind, str]]:
    """The results of a study that the viewer shows: (study, kind, series UID)."""
    query = {"Level": "Series", "Expand": True, "Query": {"StudyInstanceUID": sample.study_instance_uid}}
    held = {
        tags.get("SeriesNumber", ""): tags["SeriesInstanceUID"]
        for tags in (series["MainDicomTags"] for series in archive.read_json("/tools/find", query))
    }
    numbers = {kind: str(SERIES_NUMBERS[kind]) for kind in _SHOWN}
    return [(sample, kind, held[number]) for kind, number in numbers.items() if number in held]


def _fullest_slice(archive: Archive, sample: SampleStudy) -> str:
    """SOP Instance UID of the slice on which the first segmentation has most voxels."""
    objects = (dcmread(BytesIO(content)) for content in archive.objects_of(sample.study_instance_uid))
    segmentation = next(ds for ds in objects if ds.SOPClassUID == SegmentationStorage)
    frames = segmentation.pixel_array.reshape(-1, segmentation.Rows * segmentation.Columns)
    groups = segmentation.PerFrameFunctionalGroupsSequence[int(frames.sum(axis=1).argmax())]
    return str(groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)
