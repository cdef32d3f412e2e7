"""What the listener accepts: SOP classes and, for each, transfer syntaxes."""

from __future__ import annotations

import re

from pydicom import uid
from pynetdicom import AllStoragePresentationContexts, sop_class

VERIFICATION = "1.2.840.10008.1.1"
STORAGE_COMMITMENT_PUSH = "1.2.840.10008.1.20.1"
#: Study Root Query/Retrieve Information Models (PS3.4 C.6.2), as SCU.
STUDY_ROOT_FIND = str(sop_class.StudyRootQueryRetrieveInformationModelFind)
STUDY_ROOT_GET = str(sop_class.StudyRootQueryRetrieveInformationModelGet)
STUDY_ROOT_MOVE = str(sop_class.StudyRootQueryRetrieveInformationModelMove)
#: PS3.6 Annex A: storage classes, retired ones included, are registered below this root.
_STORAGE_ROOT = "1.2.840.10008.5.1.4.1.1."

_STORAGE_CLASSES = frozenset(str(context.abstract_syntax) for context in AllStoragePresentationContexts)

_UNCOMPRESSED = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian)

#: a data set that only refers to pixels elsewhere would not hold what was acquired, and reading it would make this node
#: open connections that a peer chooses.
_REFERENCING = frozenset(
    {
        uid.JPIPHTJ2KReferenced,
        uid.JPIPHTJ2KReferencedDeflate,
        uid.SMPTEST211020UncompressedProgressiveActiveVideo,
        uid.SMPTEST211020UncompressedInterlacedActiveVideo,
        uid.SMPTEST211030PCMDigitalAudio,
    }
)

#: implicit, explicit, big endian, deflated, JPEG, JPEG-LS, JPEG 2000, HTJ2K, RLE, MPEG-2, MPEG-4 and HEVC.
STORAGE_TRANSFER_SYNTAXES = frozenset(str(syntax) for syntax in uid.AllTransferSyntaxes if syntax not in _REFERENCING)
_PLAIN_TRANSFER_SYNTAXES = frozenset(str(syntax) for syntax in _UNCOMPRESSED)


#: what an archive that does not tell the SOP Class UID in C-FIND may have of a modality.
_IMAGE_CLASSES = {
    "CR": (uid.ComputedRadiographyImageStorage,),
    "DX": (uid.DigitalXRayImageStorageForPresentation, uid.DigitalXRayImageStorageForProcessing),
    "CT": (uid.CTImageStorage, uid.EnhancedCTImageStorage, uid.LegacyConvertedEnhancedCTImageStorage),
    "MR": (uid.MRImageStorage, uid.EnhancedMRImageStorage, uid.LegacyConvertedEnhancedMRImageStorage),
    "PT": (
        uid.PositronEmissionTomographyImageStorage,
        uid.EnhancedPETImageStorage,
        uid.LegacyConvertedEnhancedPETImageStorage,
    ),
}


def image_classes_of(modality: str) -> tuple[str, ...]:
    """Storage classes that images of a modality usually have; () for a modality that is not read here."""
    return tuple(map(str, _IMAGE_CLASSES.get(modality, ())))


def known_storage_classes() -> dict[str, str]:
    """Names of the storage classes by UID, as far as the libraries know them; later ones are accepted all the same."""
    names = {str(value): _in_words(name) for name, value in vars(sop_class).items() if isinstance(value, uid.UID)}
    names |= {value: entry[0] for value, entry in uid.UID_dictionary.items() if entry[1] == "SOP Class"}  # type: ignore[attr-defined]
    return {value: name for value, name in sorted(names.items()) if is_storage_class(value)}


def _in_words(keyword: str) -> str:
    """`LabelMapSegmentationStorage` -> `Label Map Segmentation Storage`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", keyword)


def is_storage_class(sop_class_uid: str) -> bool:
    """Tell whether instances of the class can be stored (PS3.4 B.5); private classes cannot."""
    return sop_class_uid.startswith(_STORAGE_ROOT) or sop_class_uid in _STORAGE_CLASSES


def is_supported_class(abstract_syntax: str) -> bool:
    """Tell whether the listener accepts a presentation context for the class."""
    return abstract_syntax in (VERIFICATION, STORAGE_COMMITMENT_PUSH) or is_storage_class(abstract_syntax)


def transfer_syntaxes_of(abstract_syntax: str) -> frozenset[str]:
    """Transfer syntaxes that the listener accepts for a supported class."""
    return STORAGE_TRANSFER_SYNTAXES if is_storage_class(abstract_syntax) else _PLAIN_TRANSFER_SYNTAXES
