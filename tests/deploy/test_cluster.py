"""Work on a Ray cluster, a real one of two workers on this machine."""

from __future__ import annotations

import logging

import pytest

from hatdet.core.errors import DeviceError, InputError, WeightsError
from hatdet.deploy.cluster import RETRIES, RayCluster
from tests.deploy.test_fleet import Doubling


@pytest.fixture
def cluster() -> RayCluster:
    """Two workers, with what tests of another process may have set out of the way."""
    return RayCluster("local", workers=2)


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


def test_every_item_comes_once_and_one_that_kills_workers_is_given_up(cluster, caplog, capfd):
    with cluster.joined(), caplog.at_level(logging.WARNING, "hatdet"):
        found, broken = outcomes(cluster, Doubling(killer=14), 40)
        assert (cluster.size, cluster.kind) == (2, "cpu")
        with pytest.raises(WeightsError, match="no such weights"):
            outcomes(cluster, Doubling(refused=True), 8)
    assert found == {number: 2 * number for number in range(40) if number % 10 >= 3 and number != 14}
    assert broken.pop(14) == f"given up: {RETRIES} workers were lost (killed, or out of memory) while they worked on it"
    assert broken == {number: f"{number} is broken" for number in range(40) if number % 10 < 3}
    assert "workers were lost (killed, or out of memory): their images were done again" in caplog.messages
    assert capfd.readouterr().out == ""  # results go there


def test_more_workers_than_there_is_room_for_are_refused():
    with pytest.raises(DeviceError, match=r"has room for \d+ workers with 1 cores each, not for 4096"):
        list(RayCluster("local", workers=4096).over(Doubling(), [1]))


def test_a_cluster_that_is_not_there_is_refused():
    with pytest.raises(DeviceError, match=r"no Ray cluster is at 127\.0\.0\.1:1: Connection refused"):
        list(RayCluster("127.0.0.1:1").over(Doubling(), [1]))


def test_no_items_need_no_cluster():
    assert list(RayCluster("127.0.0.1:1").over(Doubling(), [])) == []
