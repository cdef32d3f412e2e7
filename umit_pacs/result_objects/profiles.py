"""Output profiles: which kinds of result object a destination gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from umit_pacs.errors import InvalidConfiguration
from umit_pacs.handoffs import ObjectKind, RoutingDecision

_UNIVERSAL = (ObjectKind.TEXT_REPORT, ObjectKind.MEASUREMENT_REPORT, ObjectKind.SECONDARY_CAPTURE)

#: The shipped profiles.
PROFILES: dict[str, tuple[ObjectKind, ...]] = {
    "universal": _UNIVERSAL,
    # IHE AI Results: what machines read.
    "air": (
        ObjectKind.TEXT_REPORT,
        ObjectKind.MEASUREMENT_REPORT,
        ObjectKind.QUALITATIVE_REPORT,
        ObjectKind.SEGMENTATION,
        ObjectKind.KEY_OBJECTS,
    ),
    # Viewers from before structured reports.
    "classic": (
        ObjectKind.SECONDARY_CAPTURE,
        ObjectKind.BASIC_TEXT_REPORT,
        ObjectKind.PRESENTATION_STATE,
        ObjectKind.KEY_OBJECTS,
    ),
    "pdf": (*_UNIVERSAL, ObjectKind.DOCUMENT),
    "text-only": (ObjectKind.TEXT_REPORT,),
}

#: What takes a draft back, and what only reporting systems get.
_NO_PART_OF_A_DRAFT = frozenset(
    {
        ObjectKind.REJECTION_NOTE,
        ObjectKind.NOTICE,
        ObjectKind.HL7_REPORT,
        ObjectKind.FHIR_REPORT,
        ObjectKind.HL7_WITHDRAWAL,
        ObjectKind.FHIR_WITHDRAWAL,
    }
)

#: An installation's own profiles, `compose.profiles` of node.toml; one with a shipped one's name takes its place.
OwnProfiles = Mapping[str, Sequence[str]]


def profile_names(own: OwnProfiles) -> tuple[str, ...]:
    """Every profile that a rule or a peer may name, the shipped ones first."""
    return tuple(dict.fromkeys([*PROFILES, *own]))


def kinds_of(profile: str, own: OwnProfiles) -> tuple[ObjectKind, ...]:
    """The kinds of a profile, in the order in which they are composed and sent.

    Raises InvalidConfiguration when there is no such profile, or when it names what no draft consists of.
    """
    if profile not in own:
        if profile not in PROFILES:
            raise InvalidConfiguration(f"there is no profile {profile!r}; there are {', '.join(profile_names(own))}")
        return PROFILES[profile]
    possible = [kind for kind in ObjectKind if kind not in _NO_PART_OF_A_DRAFT]
    if unknown := [word for word in own[profile] if word not in possible]:
        raise InvalidConfiguration(
            f"compose.profiles.{profile}: {', '.join(unknown)} is no kind of result object; "
            f"there are {', '.join(possible)}"
        )
    if not own[profile]:
        raise InvalidConfiguration(f"compose.profiles.{profile}: names no kind of result object")
    return tuple(kind for kind in ObjectKind if kind in own[profile])


def kinds_to_compose(decision: RoutingDecision, own: OwnProfiles) -> tuple[ObjectKind, ...]:
    """The kinds that some destination gets; those of the rule's profile where it names no destination."""
    wanted = set(kinds_of(decision.profile, own)) if not set(decision.destinations) <= set(decision.kinds) else set()
    for kinds in decision.kinds.values():
        wanted |= set(kinds)
    return tuple(kind for kind in ObjectKind if kind in wanted) or kinds_of(decision.profile, own)
