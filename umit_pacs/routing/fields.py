"""What a rule may ask about: a closed list of fields, each with its scope and kind, and the operators of each kind.

Names in capitals are DICOM keywords; the others are derived from the headers. Nothing here names a person: names,
identifiers, birth dates and accession numbers cannot be asked for, and so are not kept with the facts either.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Scope(enum.StrEnum):
    """Whose fact it is. A rule is tried on each series: with the study's facts, its own and those of its images."""

    STUDY = "study"
    SERIES = "series"
    INSTANCE = "instance"


class Kind(enum.StrEnum):
    """How values are compared."""

    #: without regard to case and repeated blanks.
    TEXT = "text"
    #: exactly; AE titles differ by case.
    AE_TITLE = "AE title"
    NUMBER = "number"
    FLAG = "yes or no"


class Operator(enum.StrEnum):
    """The words that stand between a field and its value."""

    EQUALS = "equals"
    DOES_NOT_EQUAL = "does_not_equal"
    IS_ONE_OF = "is_one_of"
    IS_NONE_OF = "is_none_of"
    CONTAINS = "contains"
    DOES_NOT_CONTAIN = "does_not_contain"
    CONTAINS_ONE_OF = "contains_one_of"
    STARTS_WITH = "starts_with"
    ENDS_WITH = "ends_with"
    AT_LEAST = "at_least"
    AT_MOST = "at_most"
    BETWEEN = "between"
    IS_TRUE = "is_true"
    IS_FALSE = "is_false"
    IS_PRESENT = "is_present"
    IS_ABSENT = "is_absent"


class Operand(enum.StrEnum):
    """What an operator takes as its value."""

    NONE = "no value"
    ONE = "one value"
    LIST = "a list of values"
    RANGE = "a list of two numbers, the lower first"


#: operators that take something else than one value
OPERANDS: dict[Operator, Operand] = {
    Operator.IS_ONE_OF: Operand.LIST,
    Operator.IS_NONE_OF: Operand.LIST,
    Operator.CONTAINS_ONE_OF: Operand.LIST,
    Operator.BETWEEN: Operand.RANGE,
    Operator.IS_TRUE: Operand.NONE,
    Operator.IS_FALSE: Operand.NONE,
    Operator.IS_PRESENT: Operand.NONE,
    Operator.IS_ABSENT: Operand.NONE,
}

_PRESENCE = (Operator.IS_PRESENT, Operator.IS_ABSENT)
_EQUALITY = (Operator.EQUALS, Operator.DOES_NOT_EQUAL, Operator.IS_ONE_OF, Operator.IS_NONE_OF)
_PARTS = (
    Operator.CONTAINS,
    Operator.DOES_NOT_CONTAIN,
    Operator.CONTAINS_ONE_OF,
    Operator.STARTS_WITH,
    Operator.ENDS_WITH,
)

OPERATORS: dict[Kind, tuple[Operator, ...]] = {
    Kind.TEXT: (*_EQUALITY, *_PARTS, *_PRESENCE),
    Kind.AE_TITLE: (*_EQUALITY, Operator.STARTS_WITH, *_PRESENCE),
    Kind.NUMBER: (Operator.EQUALS, Operator.AT_LEAST, Operator.AT_MOST, Operator.BETWEEN, *_PRESENCE),
    Kind.FLAG: (Operator.IS_TRUE, Operator.IS_FALSE),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One thing that a rule may ask about."""

    name: str
    scope: Scope
    kind: Kind
    #: one line for people.
    description: str
    #: the only values that exist; () when any may occur.
    choices: tuple[str, ...] = ()


def _fields(scope: Scope, kind: Kind, descriptions: dict[str, str]) -> list[Field]:
    return [Field(name=name, scope=scope, kind=kind, description=text) for name, text in descriptions.items()]


_FIELDS: list[Field] = [
    *_fields(
        Scope.STUDY,
        Kind.AE_TITLE,
        {
            "calling_ae_title": "AE title of the sender",
            "called_ae_title": "AE title that the sender called",
        },
    ),
    *_fields(
        Scope.STUDY,
        Kind.TEXT,
        {
            "StudyDescription": "description of the study",
            "PatientSpeciesDescription": "species, where the patient is an animal",
            "modalities_in_study": "Modality of every series of the study",
        },
    ),
    Field(
        name="PatientSex", scope=Scope.STUDY, kind=Kind.TEXT, description="sex of the patient", choices=("M", "F", "O")
    ),
    *_fields(
        Scope.STUDY,
        Kind.NUMBER,
        {
            "age_years": "age at the study: PatientAge, else from the birth date",
            "number_of_series": "series of the study",
            "number_of_instances": "instances of the study",
        },
    ),
    *_fields(
        Scope.STUDY,
        Kind.FLAG,
        {
            "has_pixels": "some series of the study has pixels",
            "has_localiser": "some series of the study is a localiser",
            "has_phantom": "some series of the study shows a phantom for quality assurance",
        },
    ),
    *_fields(
        Scope.SERIES,
        Kind.TEXT,
        {
            "Modality": "modality, e.g. CT",
            "BodyPartExamined": "body part, e.g. CHEST",
            "SeriesDescription": "description of the series",
            "ProtocolName": "name of the protocol",
            "Manufacturer": "manufacturer of the device",
            "ManufacturerModelName": "model of the device",
            "StationName": "name of the station",
            "InstitutionName": "institution",
            "InstitutionalDepartmentName": "department",
            "Laterality": "side of a paired body part, L or R",
            "PatientPosition": "position of the patient in the device, e.g. HFS",
            "why_no_volume": "why the slices form no volume, e.g. missing_slices",
        },
    ),
    Field(
        name="PresentationIntentType",
        scope=Scope.SERIES,
        kind=Kind.TEXT,
        description="what the pixels are meant for",
        choices=("FOR PRESENTATION", "FOR PROCESSING"),
    ),
    Field(
        name="orientation",
        scope=Scope.SERIES,
        kind=Kind.TEXT,
        description="orientation of the slices",
        choices=("axial", "coronal", "sagittal", "oblique"),
    ),
    *_fields(
        Scope.SERIES,
        Kind.NUMBER,
        {
            "number_of_slices": "frames that can be looked at; for a volume its slices",
            "slice_thickness_mm": "thickness of the slices",
            "slice_spacing_mm": "distance between slice centres along the stack",
            "series_number": "number of the series",
        },
    ),
    *_fields(Scope.SERIES, Kind.FLAG, {"is_volume": "the slices form one volume"}),
    *_fields(
        Scope.INSTANCE,
        Kind.TEXT,
        {
            "ImageType": "values of ImageType, e.g. ORIGINAL",
            "ViewPosition": "view of a projection image, e.g. PA",
            "ImageLaterality": "side shown by the image",
            "PhotometricInterpretation": "what the pixel values mean, e.g. MONOCHROME2",
            "BurnedInAnnotation": "text in the pixels, YES or NO",
            "ContrastBolusAgent": "contrast agent",
            "ConvolutionKernel": "reconstruction kernel",
            "ScanOptions": "options of the acquisition",
            "SOPClassUID": "kind of object",
        },
    ),
    *_fields(Scope.INSTANCE, Kind.NUMBER, {"Rows": "height of a frame in pixels", "Columns": "width in pixels"}),
]

#: field by its name
FIELDS: dict[str, Field] = {field.name: field for field in _FIELDS}
