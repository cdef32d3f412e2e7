"""A study's story in words: what happened, in order, with times; and where it stands now, and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from umit_pacs.cli.guard_story import ADVICE, WITHHELD, guard_details, guard_text
from umit_pacs.cli.prior_story import prior_events
from umit_pacs.handoffs import CompletionReason, Findings, RoutingDecision, SeriesExclusion, StoppedObject, TaskResult
from umit_pacs.states import END_STATES, DeliveryState, InputSetState
from umit_pacs.store.deliveries import Commitment, Delivery
from umit_pacs.store.stories import InputSetStory, StateChange, StudyStory
from umit_pacs.store.studies import ASKED, RUN_AGAIN

_COMPLETED_BY = {
    CompletionReason.EXPECTED_COUNT: "the sender has no more instances than are here",
    CompletionReason.QUIET_PERIOD: "nothing more came for the quiet period",
    CompletionReason.MAXIMUM_WAIT: "the maximum wait was over, although more was still coming",
    CompletionReason.FILES: "the files were given by hand",
}
_REACHED = {
    InputSetState.ROUTED: "It goes to the model.",
    InputSetState.ANALYSED: "The model's answers are recorded.",
    InputSetState.COMPOSED: "The drafts are written.",
    InputSetState.DELIVERED: "Every draft has been sent.",
    InputSetState.CONFIRMED: "Every draft is confirmed at its destination.",
    InputSetState.NOT_ROUTED: "Nothing is asked about it.",
    InputSetState.HELD: "The drafts are kept here and not sent.",
    InputSetState.FAILED: "It failed.",
    InputSetState.SUPERSEDED: "A later version took its place.",
    InputSetState.UNCHANGED: "Nothing is sent.",
    InputSetState.RETRACTING: "Its drafts are being taken back.",
    InputSetState.RETRACTED: "Its drafts are taken back.",
}
_NOW = {
    None: "Its instances are still coming in; it is not complete yet.",
    InputSetState.ASSEMBLED: "It is complete and waits for the rules to decide.",
    InputSetState.ROUTED: "It waits for the model, or the model is reading it.",
    InputSetState.ANALYSED: "The model has answered; the drafts are being written.",
    InputSetState.COMPOSED: "The drafts are written and on their way.",
    InputSetState.DELIVERED: "The drafts are sent; their destination has yet to confirm that it holds them.",
    InputSetState.CONFIRMED: "The drafts are at their destination, and it has confirmed them.",
    InputSetState.NOT_ROUTED: "Nothing was asked about it.",
    InputSetState.HELD: "The drafts are written and kept here.",
    InputSetState.FAILED: "It failed.",
    InputSetState.SUPERSEDED: "A later version took its place.",
    InputSetState.UNCHANGED: "It was run again and nothing was sent, as nothing had changed; the drafts before stand.",
    InputSetState.RETRACTING: "Its drafts are being taken back.",
    InputSetState.RETRACTED: "Its drafts were taken back everywhere.",
}
_REASONS = {
    "no_rule_matched": "no rule matched",
    "nothing_to_ask": "the matching rule has nothing to ask about these series",
    "two_patients": "two patients share its Study Instance UID",
    "dead_letter": "a destination did not take a draft",
    "worker_died": "the process died each time it worked on it",
    "stored_file_missing": "a stored file is missing",
    "hold": "the rule says that a person releases them",
    "shadow": "the rule says that they are only recorded",
    "no_destination": "the rule names no destination",
    "nothing_to_send": "the destinations' profiles have no object for this draft",
    "objects_stopped": "some objects failed their check and stay here",
    "asked_again": "a person asked again",
    "released": "a person released them",
    RUN_AGAIN: "a person ran it again",
    "missing_images": "images that it names are not here",
    "names_patient": "its text names a person or the hospital",
    "unknown_name": "what it wants found has no such name",
    "nothing_changed": "neither images nor rule nor checkpoint have changed",
    "superseded": "its drafts are on their way",
    "quality": "a person retracted it for quality",
    "patient_safety": "a person retracted it for patient safety",
    "wrong_worklist_entry": "a person retracted it for a wrong worklist entry",
    "retention_expired": "a person retracted it, its retention being over",
    "retraction_not_taken": "a destination did not take the note that retracts it",
    "found": "a final report came",
    "gave_up": "the time for it is over",
    "not_asked_any_more": "the peer is not asked for final reports any more",
    "resent": "a person had the refused drafts sent again",
} | WITHHELD
_ADVICE = {
    "no_rule_matched": "The conditions below say why. Change the rules, then `umit-pacs ask-again {study}`.",
    "nothing_to_ask": "See what was left out below. Change the rules, then `umit-pacs ask-again {study}`.",
    "two_patients": "Correct it in the PACS, and send each patient under a Study Instance UID of its own.",
    "dead_letter": "Look at `umit-pacs dead-letters list`; when the cause is gone, `umit-pacs dead-letters resend`.",
    "retraction_not_taken": "When the cause is gone, `umit-pacs dead-letters resend`.",
    "hold": "`umit-pacs release {study}` sends them.",
    "no_destination": "Add a destination to the rule, then send the study again.",
} | dict.fromkeys(WITHHELD, ADVICE)


#: in these states a person wants to know why.
_HAS_A_CAUSE = frozenset(
    {
        InputSetState.FAILED,
        InputSetState.NOT_ROUTED,
        InputSetState.HELD,
        InputSetState.RETRACTING,
        InputSetState.RETRACTED,
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One thing that happened."""

    at: datetime
    text: str
    details: tuple[str, ...] = ()


def current_state(told: StudyStory) -> InputSetState | None:
    """The state of the newest version, None before there is one."""
    return told.newest_version.state if told.newest_version is not None else None


def headline(told: StudyStory) -> str:
    """Where the study stands now, why, and what a person may do about it."""
    if (newest := told.newest_version) is None:
        return _before_the_first_set(told)
    sentence = _NOW[newest.state]
    if newest.state in _HAS_A_CAUSE:
        sentence = f"{sentence[:-1]}: {_because(newest.reason, newest.detail)}."
        fallback = "`umit-pacs ask-again {study}` tries again." if newest.state is InputSetState.FAILED else ""
        advice = _ADVICE.get(newest.reason, fallback).format(study=told.study_instance_uid)
        sentence = f"{sentence} {advice}".rstrip()
    if newest.state not in END_STATES and (waiting := _waiting_for_peer(newest.deliveries)):
        sentence = f"{sentence} {waiting}"
    if newest.stopped:
        sentence += f" {_count(len(newest.stopped), 'object')} failed the node's own check and stays here; see below."
    if told.waiting:
        sentence += f" {_count(told.waiting, 'instance')} came since and will make a new input set."
    return sentence


def lines_of(told: StudyStory) -> list[Line]:
    """Everything that happened, the oldest first."""
    lines = [
        *_arrival_lines(told),
        *_question_lines(told),
        *_report_search_lines(told),
        *(line for each in told.input_sets for line in _input_set_lines(each)),
    ]
    return sorted(lines, key=lambda line: line.at)


# --- before the model --------------------------------------------------------------------------------------------


def _before_the_first_set(told: StudyStory) -> str:
    if told.waiting:
        return _NOW[None]
    if told.without_pixels:
        return "It has no images, only objects such as reports; they are stored, and nothing is asked about them."
    return "Nothing of it was accepted; see what was kept aside."


def _arrival_lines(told: StudyStory) -> Iterator[Line]:
    for arrival in told.arrivals:
        span_s = (arrival.last_received_at - arrival.first_received_at).total_seconds()
        yield Line(
            at=arrival.first_received_at,
            text=f"{arrival.calling_ae_title} ({arrival.peer_host}) sent {_count(arrival.instances, 'instance')} in "
            f"{_count(arrival.series, 'series', 'series')}, {arrival.size_bytes / 1e6:.1f} MB, within {span_s:.1f} s.",
        )
    left_out = [_count(told.own_results, "result of ours that came back", "results of ours that came back")]
    left_out.append(_count(told.without_pixels, "object without an image", "objects without an image"))
    if stored_only := [words for words in left_out if not words.startswith("0 ")]:
        last = max(arrival.last_received_at for arrival in told.arrivals)
        yield Line(at=last, text=f"Stored and not analysed: {', '.join(stored_only)}.")
    for aside in told.quarantined:
        text = f"{aside.calling_ae_title} sent something that is kept aside: {aside.reason.replace('_', ' ')}."
        yield Line(at=aside.received_at, text=text, details=(aside.detail, aside.relative_path))
    if (said := told.peer_count) is not None:
        answer = "could not say how many instances it has"
        if said.expected is not None:
            answer = f"said that it has {_count(said.expected, 'instance')}"
        yield Line(at=said.asked_at, text=f"{said.calling_ae_title} {answer}; {said.held} were here.")


def _question_lines(told: StudyStory) -> Iterator[Line]:
    """What was asked and is not answered; selections that ask nothing are not worth a line."""
    for question in told.questions:
        if question.reason not in ("", "other_title"):
            because = _because(question.reason, question.detail)
            yield Line(
                at=question.received_at, text=f"A question …{question.document[-8:]} is not answered: {because}."
            )


def _report_search_lines(told: StudyStory) -> Iterator[Line]:
    """The last look for the final report at each peer."""
    for search in told.report_searches:
        if search.looked_at is None:
            continue
        text = f"{search.peer} was asked for the final report, {_count(search.looks, 'time')}; "
        text += f"{_count(search.retrieved, 'report')} came."
        if search.next_look_at is not None:
            text += f" It is asked again at {search.next_look_at.astimezone():%Y-%m-%d %H:%M}."
        if search.reason and search.next_look_at is not None:
            text += f" The last time failed: {_because(search.reason, search.detail)}."
        elif search.reason:
            text += f" The search has ended: {_because(search.reason, search.detail)}."
        yield Line(at=search.looked_at, text=text)


def _input_set_lines(told: InputSetStory) -> Iterator[Line]:
    for change in told.changes:
        yield _change_line(told, change)
    if (decision := told.decision) is not None and told.decided_at is not None:
        yield Line(at=told.decided_at, text=_decision_text(decision), details=tuple(_decision_details(decision)))
    if (findings := told.findings) is not None and told.found_at is not None:
        yield Line(at=told.found_at, text=_model_text(findings), details=tuple(_answers(findings)))
    if told.guarding is not None and told.guarded_at is not None:
        yield Line(at=told.guarded_at, text=guard_text(told.guarding), details=tuple(guard_details(told.guarding)))
    if told.prior is not None:
        yield from (Line(at=at, text=text, details=details) for at, text, details in prior_events(told.prior))
    if told.result_objects and told.composed_at is not None:
        kinds = Counter(item.kind.replace("_", " ") for item in told.result_objects)
        objects = ", ".join(_count(number, kind) for kind, number in kinds.items())
        yield Line(at=told.composed_at, text=f"{_count(len(told.result_objects), 'draft object')} made: {objects}.")
    yield from (Line(at=stop.at, text=_stop_text(stop.stopped)) for stop in told.stopped)
    yield from _delivery_lines(told.deliveries)
    yield from _commitment_lines(told.commitments)


def _change_line(told: InputSetStory, change: StateChange) -> Line:
    if change.state is InputSetState.ASSEMBLED and change.reason == RUN_AGAIN:
        text = f"Run again by a person as input set {told.input_set_id[:8]}, on the same images"
        text += f" as {told.predecessor_id[:8]}." if told.predecessor_id else "."
    elif change.state is InputSetState.ASSEMBLED and change.reason == ASKED:
        text = f"Asked from the viewer by …{(told.asked_by or '')[-8:]} as input set {told.input_set_id[:8]}, about "
        text += f"{_count(told.instances, 'image')}."
    elif change.state is InputSetState.ASSEMBLED and not change.reason:
        text = f"Complete: {_COMPLETED_BY[told.completed_by]}. Input set {told.input_set_id[:8]}: " + (
            f"{_count(told.instances, 'image')} in {_count(told.series, 'series', 'series')}"
        )
        text += f"; it supersedes {told.predecessor_id[:8]}." if told.predecessor_id else "."
    elif change.state is InputSetState.ASSEMBLED:
        text = f"Taken up again: {_because(change.reason, change.detail)}."
    elif change.state is InputSetState.ROUTED or not change.reason:
        text = _REACHED[change.state]
    else:
        text = f"{_REACHED[change.state][:-1]}: {_because(change.reason, change.detail)}."
    return Line(at=change.changed_at, text=f"[{change.state.upper()}] {text}")


def _because(reason: str, detail: str) -> str:
    words = _REASONS.get(reason, reason.replace("_", " "))
    return f"{words} ({detail.rstrip('.')})" if detail else words


def _decision_text(decision: RoutingDecision) -> str:
    version = f"rules version {decision.rules_version}"
    if decision.rule is None:
        return f"No rule matched ({version})."
    to = ", ".join(decision.destinations) or "nowhere"
    asked = _count(len(decision.orders), "question")
    return (
        f"Rule {decision.rule} matched ({version}): {asked} to the model, in {decision.language}, "
        f"{decision.priority}, {decision.mode}, to {to}."
    )


def _decision_details(decision: RoutingDecision) -> Iterator[str]:
    """Every condition of every rule that was looked at, then what was left out and what could not be asked."""
    for rule, of_rule in groupby(decision.reasons, key=lambda reason: reason.rule):
        reasons = list(of_rule)
        if rule == decision.rule:
            yield f"rule {rule} matched:"
        elif decision.rule is not None and all(reason.is_met for reason in reasons if reason.depth == 0):
            yield f"rule {rule} fits too, but {decision.rule} comes first:"
        else:
            yield f"rule {rule} did not match:"
        for reason in reasons:
            sign = "✓" if reason.is_met else "✗"
            yield f"  {'  ' * reason.depth}{sign} {reason.condition} (found: {reason.found})"
    yield from _exclusions(decision.excluded)
    yield from (f"note: {remark}" for remark in decision.remarks)


# --- the model and after it --------------------------------------------------------------------------------------


def _model_text(findings: Findings) -> str:
    model = findings.model
    took = findings.timings_s.get("answered_s")
    seconds = f" in {took:.1f} s" if took is not None else ""
    abstained = sum(result.abstention is not None for result in findings.results)
    questions = _count(len(findings.results), "question")
    text = f"{model.name} {model.version} ({model.quantisation}, {model.device}) answered {questions}{seconds}"
    return f"{text}, {abstained} of them by abstaining." if abstained else f"{text}."


def _answers(findings: Findings) -> Iterator[str]:
    yield from (_answer(result) for result in findings.results)
    yield from _exclusions(findings.excluded)


def _answer(result: TaskResult) -> str:
    order = result.order
    parts = (order.task.replace("_", " "), order.target.replace("_", " "), order.question)
    asked = " ".join(part for part in parts if part)
    if result.abstention is not None:
        detail = f" ({result.abstention.detail})" if result.abstention.detail else ""
        return f"{asked}: no answer, {result.abstention.reason.replace('_', ' ')}{detail}"
    if result.option_index is not None:
        answer = order.options[result.option_index]
    elif result.regions or result.presence:
        answer = result.presence or "found"
        answer += f", {_count(len(result.regions), 'place')}" if result.regions else ""
    else:
        answer = f"{len(result.text)} characters of text"
    return f"{asked}: {answer}" + (f", confidence {result.confidence:.2f}" if result.confidence is not None else "")


def _exclusions(excluded: Iterable[SeriesExclusion]) -> Iterator[str]:
    for series in excluded:
        detail = f" ({series.detail})" if series.detail else ""
        yield f"series …{series.series_instance_uid[-16:]} left out: {series.reason.replace('_', ' ')}{detail}"


def _stop_text(stopped: StoppedObject) -> str:
    which = f" {stopped.number}" if stopped.number else ""
    return f"{stopped.kind.replace('_', ' ').capitalize()}{which} stopped, it failed its check: {stopped.detail}."


def _delivery_lines(deliveries: tuple[Delivery, ...]) -> Iterator[Line]:
    for item in deliveries:
        what = f"{item.kind.replace('_', ' ').capitalize()} …{item.sop_instance_uid[-8:]}"
        tries = _count(item.attempts, "attempt")
        after = f" after {tries}" if item.attempts else ""
        if item.sent_at is not None:
            yield Line(at=item.sent_at, text=f"{what} taken by {item.peer}{after}.")
        if item.state is DeliveryState.WITHDRAWN:
            by = f"by …{item.withdrawn_by[-8:]}" if item.withdrawn_by else "before it was sent"
            yield Line(at=item.changed_at, text=f"{what} taken back at {item.peer} {by}.")
        if item.confirmed_at is not None:
            how = item.last_status.replace("_", " ")
            yield Line(at=item.confirmed_at, text=f"{what} confirmed by {item.peer} ({how}).")
        elif item.state is DeliveryState.DEAD:
            reason = _last_attempt(item)
            yield Line(at=item.changed_at, text=f"{what} given up for {item.peer} after {tries}: {reason}.")
        elif item.state is DeliveryState.PENDING and item.attempts:
            yield Line(at=item.changed_at, text=f"{what} not taken by {item.peer} yet, {tries}: {_last_attempt(item)}.")


def _last_attempt(item: Delivery) -> str:
    words = item.last_status.replace("_", " ") or "no status"
    return f"{words} ({item.detail.rstrip('.')})" if item.detail else words


def _waiting_for_peer(deliveries: tuple[Delivery, ...]) -> str:
    """When the next attempt is made, and why the last one failed; empty when nothing failed."""
    failed = [item for item in deliveries if item.state is DeliveryState.PENDING and item.attempts]
    if not failed:
        return ""
    item = min(failed, key=lambda item: item.next_attempt_at or item.created_at)
    when = f"at {item.next_attempt_at.astimezone():%H:%M:%S}" if item.next_attempt_at is not None else "at once"
    return f"{item.peer} did not take one yet: {_last_attempt(item)}. It is tried again {when}."


def _commitment_lines(commitments: tuple[Commitment, ...]) -> Iterator[Line]:
    for asked in commitments:
        number = _count(len(asked.objects), "object")
        yield Line(at=asked.requested_at, text=f"{asked.peer} was asked to commit to {number}.")
        if asked.answered_at is None:
            continue
        failed = [item for item in asked.objects if item.is_committed is False]
        answer = f"refused {len(failed)} of {number}" if failed else f"commits to {number}"
        reasons = (f"…{item.sop_instance_uid[-8:]}: failure reason {item.failure_reason or 0:04X}" for item in failed)
        yield Line(at=asked.answered_at, text=f"{asked.peer} {answer}.", details=tuple(reasons))


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
