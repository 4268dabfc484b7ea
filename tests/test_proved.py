"""Whoever waits for a compiler is told so, and nobody else."""

import time

import pytest

from clipq import patience, proved


@pytest.mark.parametrize(("seconds", "told"), [(0.0, []), (0.3, [proved._COMPILING])])
def test_long_waits_are_explained(monkeypatch, caplog, seconds, told):
    monkeypatch.setattr(patience, "SECONDS", 0.1)

    def compiled() -> str:
        time.sleep(seconds)
        return "faster"

    assert proved.unless_it_fails(compiled, "slow") == "faster"
    time.sleep(0.2)
    assert [record.message for record in caplog.records] == told


def test_nobody_is_told_after_a_failure(monkeypatch, caplog):
    monkeypatch.setattr(patience, "SECONDS", 0.1)
    with pytest.warns(UserWarning, match="slow: they give other results"):
        assert proved.unless_it_fails(lambda: None, "slow") is None
    time.sleep(0.2)
    assert not caplog.records
