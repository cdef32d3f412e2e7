"""The transition tables."""

import pytest

from umit_pacs.states import (
    DELIVERY_TRANSITIONS,
    END_STATES,
    INPUT_SET_TRANSITIONS,
    DeliveryState,
    InputSetState,
    TransitionNotAllowed,
    require_transition,
)


def test_every_state_has_its_row():
    assert set(INPUT_SET_TRANSITIONS) == set(InputSetState)
    assert set(DELIVERY_TRANSITIONS) == set(DeliveryState)


def test_every_state_leads_to_an_end():
    reached = set(END_STATES)
    while grown := {s for s, after in INPUT_SET_TRANSITIONS.items() if after & reached} - reached:
        reached |= grown
    assert reached == set(InputSetState)


def test_a_confirmed_study_stays_confirmed():
    with pytest.raises(TransitionNotAllowed, match="confirmed -> failed"):
        require_transition(INPUT_SET_TRANSITIONS, InputSetState.CONFIRMED, InputSetState.FAILED)


@pytest.mark.parametrize("before", sorted(set(InputSetState) - {InputSetState.RETRACTED, InputSetState.SUPERSEDED}))
def test_a_study_may_be_retracted_wherever_it_stands(before):
    assert InputSetState.RETRACTING in {before, *INPUT_SET_TRANSITIONS[before]}


def test_what_is_taken_back_stays_so():
    assert INPUT_SET_TRANSITIONS[InputSetState.RETRACTED] == frozenset()
    assert DELIVERY_TRANSITIONS[DeliveryState.WITHDRAWN] == frozenset()


def test_a_listed_transition_is_allowed():
    require_transition(INPUT_SET_TRANSITIONS, InputSetState.ASSEMBLED, InputSetState.ROUTED)
