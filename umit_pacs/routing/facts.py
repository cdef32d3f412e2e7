"""What rules know of a study: frozen, small, and without anything that names a person."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import TypeAdapter

from umit_pacs.handoffs import SeriesUID

Value = str | float | bool
#: values by field name; a field that the study does not have is not a key
Values = dict[str, tuple[Value, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class SeriesFacts:
    """One series: its own facts, and those of its images."""

    series_instance_uid: SeriesUID
    #: facts of scope `series`.
    values: Values = field(default_factory=dict)
    #: facts of scope `instance`, one entry for each distinct combination among the images.
    images: tuple[Values, ...] = ()
    #: a word for why this series is never analysed; "" when it may be.
    kept_out: str = ""
    kept_out_detail: str = ""

    @property
    def is_volume(self) -> bool:
        return self.values.get("is_volume") == (True,)

    @property
    def number_of_slices(self) -> float:
        """Frames of the series; 0 when unknown."""
        return self._number("number_of_slices", 0.0)

    @property
    def series_number(self) -> float:
        """Series Number; after every known number when there is none."""
        return self._number("series_number", float("inf"))

    def _number(self, name: str, default: float) -> float:
        values = self.values.get(name, ())
        return float(values[0]) if values else default

    def text(self, name: str) -> str:
        """First value of a text field of the series; "" when absent."""
        values = self.values.get(name, ())
        return str(values[0]) if values else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyFacts:
    """Everything that rules may ask of one input set."""

    #: facts of scope `study`.
    values: Values = field(default_factory=dict)
    series: tuple[SeriesFacts, ...] = ()

    @property
    def usable_series(self) -> tuple[SeriesFacts, ...]:
        return tuple(series for series in self.series if not series.kept_out)


_ADAPTER = TypeAdapter(StudyFacts)


def facts_to_text(facts: StudyFacts) -> str:
    """`facts` as JSON text, for the stored decision."""
    return _ADAPTER.dump_json(facts).decode()


def facts_from_text(text: str) -> StudyFacts:
    """The reverse of `facts_to_text`."""
    return _ADAPTER.validate_json(text)
