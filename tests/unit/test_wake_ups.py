"""Wake-ups reach every listener of a name, and whoever sends them never fails or waits."""

import threading

import pytest

from umit_pacs.wake_ups import WakeUps


@pytest.fixture
def wake_ups():
    """Makes what sends and hears wake-ups in a folder; all of them end after the test."""
    made = []

    def make(folder):
        made.append(WakeUps(folder))
        return made[-1]

    yield make
    for each in made:
        each.close()


def heard_by(wake_ups, name, listener):
    heard = threading.Event()
    wake_ups.listen(name, listener, heard.set)
    return heard


def test_a_wake_up_reaches_everybody_who_listens_for_the_name_and_nobody_else(wake_ups, tmp_path):
    first, second = (
        heard_by(wake_ups(tmp_path), "work", "here/work-0"),
        heard_by(wake_ups(tmp_path), "work", "here/work-1"),
    )
    other = heard_by(wake_ups(tmp_path), "return", "here/deliver")
    wake_ups(tmp_path).wake("work")
    assert first.wait(20)
    assert second.wait(20)
    assert not other.is_set()


def test_a_process_takes_the_place_of_its_predecessor(wake_ups, tmp_path):
    before = heard_by(wake_ups(tmp_path), "work", "here/work-0")
    after = heard_by(wake_ups(tmp_path), "work", "here/work-0")
    wake_ups(tmp_path).wake("work")
    assert after.wait(20)
    assert not before.is_set()


def test_waking_nobody_is_no_error(wake_ups, tmp_path):
    wake_ups(tmp_path / "missing").wake("work")
    (tmp_path / "work.00000000").touch()  # what a process of a machine that is gone leaves behind
    wake_ups(tmp_path).wake("work")


def test_more_wake_ups_than_a_busy_listener_takes_do_not_block(wake_ups, tmp_path):
    is_free, hears = threading.Event(), threading.Event()

    def be_busy() -> None:
        hears.set()
        is_free.wait(20)

    wake_ups(tmp_path).listen("work", "here/work-0", be_busy)
    sender = wake_ups(tmp_path)
    for _ in range(2000):
        sender.wake("work")
    assert hears.wait(20)
    is_free.set()


def test_a_folder_too_deep_for_sockets_leaves_polling(wake_ups, tmp_path, caplog):
    deep = tmp_path / ("a" * 100)
    deep.mkdir()
    assert not heard_by(wake_ups(deep), "work", "here/work-0").is_set()
    assert "wake_ups_unheard" in caplog.text
    wake_ups(deep).wake("work")
