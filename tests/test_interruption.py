import os
import signal
import threading

import pytest

from clipq.interruption import stop_requests

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_a_wish_and_the_handlers_are_put_back(number: int) -> None:
    before = [signal.getsignal(n) for n in SIGNALS]
    with stop_requests() as asked:
        assert not asked()
        os.kill(os.getpid(), number)
        assert asked()
    assert [signal.getsignal(n) for n in SIGNALS] == before


def test_a_second_sigint_breaks_off_what_does_not_stop() -> None:
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs without it
    before = [signal.getsignal(n) for n in SIGNALS]
    with pytest.raises(KeyboardInterrupt), stop_requests():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert [signal.getsignal(n) for n in SIGNALS] == before
    signal.signal(signal.SIGINT, earlier)


def test_a_second_sigterm_changes_nothing() -> None:
    with stop_requests() as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked()


def test_outside_the_main_thread_nobody_asks() -> None:
    answers = []

    def work() -> None:
        with stop_requests() as asked:
            answers.append(asked())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_a_forked_worker_leaves_sigint_to_its_parent_and_ends_by_sigterm(number: int, code: int) -> None:
    with stop_requests() as asked:
        worker = os.fork()
        if not worker:
            os.kill(os.getpid(), number)
            os._exit(0)
        _, status = os.waitpid(worker, 0)
        assert os.waitstatus_to_exitcode(status) == code
        assert not asked()
