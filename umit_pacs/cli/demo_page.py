"""The demo's report as one page: what is known of each study, what came of it, and the pictures."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path

from umit_pacs.cli.demo_report import said_in_words
from umit_pacs.cli.sample_studies import SampleStudy
from umit_pacs.store.stories import StudyStory

_STYLE = "body{font:15px/1.5 sans-serif;max-width:72em;margin:2em auto}img{max-width:100%}pre{white-space:pre-wrap}"


def write_page(
    path: Path, samples: Iterable[SampleStudy], stories: Iterable[StudyStory], pictures: Iterable[Path]
) -> Path:
    """Write the page; it names the pictures, which carry their study's name, by their place beside it."""
    pictures = tuple(pictures)
    parts = [
        _study(sample, told, [picture for picture in pictures if sample.name.replace(" ", "-") in picture.name], path)
        for sample, told in zip(samples, stories, strict=True)
    ]
    title = "UMIT PACS demo: unverified AI drafts, not a diagnosis"
    head = f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>"
    path.write_text(head + "".join(parts), encoding="utf-8")
    return path


def _study(sample: SampleStudy, told: StudyStory, pictures: Iterable[Path], page: Path) -> str:
    newest = told.input_sets[-1]
    said = said_in_words(newest.findings.results if newest.findings else ())
    rows = [f"<h2>{escape(sample.name)}: {escape(newest.state)}</h2>"]
    rows += [f"<p>Known to be true: {escape(sample.known_truth)}</p>", f"<pre>{escape(said)}</pre>"]
    for picture in pictures:
        name = escape(picture.relative_to(page.parent).as_posix())
        rows.append(f'<figure><img src="{name}" alt=""><figcaption>{name}</figcaption></figure>')
    return "".join(rows)
