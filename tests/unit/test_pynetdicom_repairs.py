"""A send method of an association is not robbed of its answer by the association's own reactor."""

import threading

from umit_pacs.dicom_network.pynetdicom_repairs import SureCheckpoint


def reactor_saw_the_sending(checkpoint):
    """Whether a reactor that was just let pass looks for messages after a send method believed it to be paused."""
    has_passed, may_go_on, is_sent, saw = threading.Event(), threading.Event(), threading.Event(), []

    def react():
        checkpoint.wait()
        has_passed.set()
        may_go_on.wait()
        saw.append(is_sent.is_set())
        checkpoint.wait()

    def send():
        checkpoint.clear()
        is_sent.set()

    reactor, sender = threading.Thread(target=react), threading.Thread(target=send)
    reactor.start()
    assert has_passed.wait(20)
    sender.start()
    is_sent.wait(0.3)  # as far as it gets while the reactor is in passing
    may_go_on.set()
    sender.join(20)
    checkpoint.set()
    reactor.join(20)
    return saw


def test_a_pause_waits_for_a_reactor_in_passing():
    assert reactor_saw_the_sending(SureCheckpoint()) == [False]


def test_the_plain_checkpoint_does_not():
    plain = threading.Event()
    plain.set()
    assert reactor_saw_the_sending(plain) == [True]


def test_a_reactor_that_has_ended_is_not_waited_for():
    checkpoint = SureCheckpoint()
    reactor = threading.Thread(target=checkpoint.wait)
    reactor.start()
    reactor.join(20)
    checkpoint.clear()
    assert not checkpoint.is_set()


def test_the_reactor_itself_may_pause_while_passing():
    checkpoint = SureCheckpoint()
    assert checkpoint.wait(1)
    checkpoint.clear()
    assert not checkpoint.wait(0.01)
