"""Work on a Ray cluster, a real one of two workers on this machine."""

from __future__ import annotations

import logging

import pytest

from hatdet.core.errors import DeviceError, InputError, OptionsError, WeightsError
from hatdet.deploy.cluster import RETRIES, RayCluster
from tests.deploy.test_fleet import Doubling


def outcomes(cluster: RayCluster, work: Doubling, count: int) -> tuple[dict[int, int], dict[int, str]]:
    found, broken = {}, {}
    for number, finish in cluster.over(work, list(range(count))):
        assert number not in found
        assert number not in broken
        try:
            found[number] = finish()[0]
        except (InputError, DeviceError) as error:
            broken[number] = str(error)
    return found, broken


BROKEN = {number: f"{number} is broken" for number in range(40) if number % 10 < 3}
DONE = {number: 2 * number for number in range(40) if number % 10 >= 3}


def test_every_item_comes_once_with_its_result_or_its_error(capfd):
    cluster = RayCluster("local", workers=2)
    with cluster.joined():  # once for all: it takes seconds
        assert (cluster.size, cluster.kind) == (2, "cpu")
        assert outcomes(cluster, Doubling(), 40) == (DONE, BROKEN)
        with pytest.raises(WeightsError, match="no such weights"):
            outcomes(cluster, Doubling(refused=True), 8)
        with pytest.raises(DeviceError, match=r"has room for \d+ workers with 1 cores each, not for 4096"):
            outcomes(RayCluster("local", workers=4096), Doubling(), 1)
    assert capfd.readouterr().out == ""  # results go there


@pytest.mark.slow
def test_an_item_that_kills_workers_is_given_up_and_no_other(caplog, capfd):
    with caplog.at_level(logging.WARNING, "hatdet"):
        found, broken = outcomes(RayCluster("local", workers=2), Doubling(killer=14), 40)
    assert broken.pop(14) == f"given up: {RETRIES} workers were lost (killed, or out of memory) while they worked on it"
    assert found == {number: twice for number, twice in DONE.items() if number != 14}
    assert broken == BROKEN
    assert "workers were lost (killed, or out of memory): their images were done again" in caplog.messages
    assert capfd.readouterr().out == ""


def test_a_cluster_that_is_not_there_is_refused():
    with pytest.raises(DeviceError, match=r"no Ray cluster is at 127\.0\.0\.1:1: Connection refused"):
        list(RayCluster("127.0.0.1:1").over(Doubling(), [1]))


def test_rays_client_is_refused(monkeypatch):
    with pytest.raises(OptionsError, match=r"does not run over ray://head:10001: .* auto or HOST:PORT"):
        RayCluster("ray://head:10001")
    monkeypatch.setenv("RAY_ADDRESS", "ray://other:10001")
    with pytest.raises(OptionsError, match="does not run over ray://other:10001"):
        RayCluster()


def test_no_items_need_no_cluster():
    assert list(RayCluster("127.0.0.1:1").over(Doubling(), [])) == []
