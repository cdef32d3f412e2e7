"""What a peer has to take for its drafts to arrive and for earlier studies to come, and whether it does."""

from __future__ import annotations

from pydicom.uid import UID

from umit_pacs.dicom_network.addresses import NetworkTimeouts, PeerAddress
from umit_pacs.dicom_network.sender import refused_classes
from umit_pacs.dicom_network.supported_classes import STUDY_ROOT_FIND, STUDY_ROOT_GET, STUDY_ROOT_MOVE
from umit_pacs.handoffs import ObjectKind
from umit_pacs.prior_studies import PriorBy
from umit_pacs.result_objects.check_kinds import RULES
from umit_pacs.result_objects.profiles import OwnProfiles, kinds_of
from umit_pacs.routing.rules import SENDER, RuleSet
from umit_pacs.routing.rules_text import parse_rules
from umit_pacs.settings import Settings
from umit_pacs.states import RetireBy
from umit_pacs.store.database import Catalogue
from umit_pacs.store.peers import Peer
from umit_pacs.store.rules import current_rules

#: what it takes to ask a peer for earlier studies.
RETRIEVAL: dict[PriorBy, tuple[str, ...]] = {
    PriorBy.NO: (),
    PriorBy.GET: (STUDY_ROOT_FIND, STUDY_ROOT_GET),
    PriorBy.MOVE: (STUDY_ROOT_FIND, STUDY_ROOT_MOVE),
}
#: what a peer gets that has no profile of its own and that no rule sends to yet.
_USUAL_PROFILE = "universal"


def rules_in_force(catalogue: Catalogue) -> RuleSet:
    """The published rules; none where none are published. Raises InvalidConfiguration."""
    published = current_rules(catalogue)
    return RuleSet() if published is None else parse_rules(published.text)


def needed_classes(peer: Peer, rules: RuleSet, own: OwnProfiles) -> tuple[str, ...]:
    """UIDs of the SOP classes that a peer needs: those of its drafts, of what takes a draft back, and of retrieval.

    Without a profile of its own these are the profiles of all rules that send to it or to the sender. Raises
    InvalidConfiguration when a profile does not exist.
    """
    asked = RETRIEVAL[peer.priors_by]
    if not peer.receives_results:
        return asked
    actions = [rule.action for rule in rules.rules if rule.enabled]
    sent = {action.profile for action in actions if {peer.name, SENDER} & set(action.destinations)}
    names = [peer.profile] if peer.profile else sorted(sent) or [_USUAL_PROFILE]
    withdrawal = ObjectKind.REJECTION_NOTE if peer.retire_by is RetireBy.IOCM else ObjectKind.NOTICE
    kinds = {withdrawal}.union(*(kinds_of(name, own) for name in names))
    sent_classes = (str(checks.sop_class_uid) for kind, checks in RULES.items() if kind in kinds)
    return tuple(dict.fromkeys((*sent_classes, *asked)))


def refused_names(peer: Peer, rules: RuleSet, settings: Settings, *, timeouts: NetworkTimeouts) -> tuple[str, ...]:
    """Names of the SOP classes that the peer needs and does not accept; it is asked, nothing is sent.

    Raises PeerUnavailable, PeerRefused or InvalidConfiguration.
    """
    needed = needed_classes(peer, rules, settings.compose.profiles)
    if not needed:
        return ()
    address = PeerAddress(ae_title=peer.ae_title, host=peer.host, port=peer.port)
    refused = refused_classes(address, needed, calling_ae_title=settings.listener.ae_title, timeouts=timeouts)
    return tuple(UID(uid).name for uid in refused)
