"""Readiness: what a job asks for, beside what there is for it."""

from pathlib import Path

import pytest

from cluster.findings import Checkup, Finding
from cluster.session import Capacity
from orchestrator.load import load_spec
from orchestrator.planning.readiness import check_readiness, check_room_for
from orchestrator.spec import JobSpec
from tests.fixtures.dashboards import nodes, serving
from tests.fixtures.ray_head import free_ports

STARTER = Path(__file__).parents[2] / "orchestrator" / "cli" / "starter.yaml"


def job(*overrides: str) -> JobSpec:
    return load_spec(STARTER, overrides)


def by_check(checkup: Checkup) -> dict[str, Finding]:
    return {it.check: it for it in checkup.findings}


def test_a_job_that_fits_is_fine_and_one_that_does_not_is_told_which_part() -> None:
    assert check_room_for(job(), Capacity(2, 0)).verdict == "OK"
    finding = check_room_for(job("train.workers=3"), Capacity(2, 0))
    assert (finding.verdict, finding.exit_code) == ("FAIL", 3)
    assert finding.found == "training on 3 workers needs 3 CPU, and there is 2 CPU in all"
    assert "train.workers" in finding.fix
    assert check_room_for(job(), None).verdict == "WARN"


def test_a_job_that_runs_here_is_compared_with_this_machine() -> None:
    machine, own = check_readiness(job("cluster.cpus=4096", "train.workers=8"), dashboard=None)
    assert own.of == "job my-first-job"
    assert by_check(own)["room"].verdict == "OK"
    assert (by_check(own)["cores"].verdict, "take turns" in by_check(own)["cores"].fix) == ("WARN", True)
    assert by_check(machine)["authentication"].found == "a cluster that is started here asks for a token"


def test_what_this_machine_cannot_tell_is_a_concern_and_what_it_can_a_failure() -> None:
    special = "train.nodes={accelerator: H100}"
    (own,) = check_readiness(job(special), dashboard=None)[1:]
    finding = by_check(own)["room"]
    assert (finding.verdict, "training on 1 workers needs 1 CPU, accelerator H100" in finding.found) == ("WARN", True)
    assert "--address" in finding.fix
    (own,) = check_readiness(job(special, "cluster.cpus=1", "teachers.0.resources.cpu=2"), dashboard=None)[1:]
    assert by_check(own)["room"].verdict == "FAIL"


@pytest.mark.skipif(any(Path("/dev").glob("nvidia[0-9]*")), reason="this machine has what the job asks for")
@pytest.mark.parametrize("setting", ["train.gpus_per_worker=1", "teachers.0.resources.gpu=0.5"])
def test_a_job_that_asks_for_a_gpu_fails_where_there_is_none(setting: str) -> None:
    machine, own = check_readiness(job(setting), dashboard=None)
    assert by_check(machine)["GPUs"].verdict == "FAIL"
    assert by_check(own)["room"].verdict == "FAIL"
    # It is not meant for this machine.
    machine, own = check_readiness(job(setting, "cluster.kubernetes={image: coffey}"), dashboard=None)
    assert (by_check(machine)["GPUs"].verdict, by_check(own)["room"].verdict) == ("OK", "WARN")


def test_a_job_that_joins_a_cluster_asks_for_its_address_and_a_token_and_for_no_gpu_here() -> None:
    address = f"127.0.0.1:{free_ports(1)[0]}"
    machine, there = check_readiness(job(f"cluster.address={address}", "train.gpus_per_worker=1"), dashboard=None)
    assert there.of == f"cluster.address {address}"
    assert by_check(there)["address"].verdict == "FAIL"
    assert by_check(machine)["GPUs"].verdict == "OK"
    assert address in by_check(machine)["authentication"].found


def test_a_job_that_is_submitted_is_compared_with_the_room_of_its_cluster() -> None:
    with serving("127.0.0.1", room=nodes({"CPU": 3.0})) as (url, _):
        for setting, verdict in (("train.workers=3", "OK"), ("train.workers=4", "FAIL")):
            _, there = check_readiness(job(setting, "cluster.address=auto"), dashboard=url)
            assert by_check(there)["room"].verdict == verdict
    room = nodes({"CPU": 3.0, "licence": 1.0, "accelerator_type:L4": 1.0}, labels={"zone": "a"})
    with serving("127.0.0.1", room=room) as (url, _):
        for needs, verdict in (
            ("{accelerator: L4, custom: {licence: 1}, labels: {zone: a}}", "OK"),
            ("{accelerator: H100}", "FAIL"),
            ("{custom: {licence: 2}}", "FAIL"),
            ("{labels: {zone: b}}", "FAIL"),
        ):
            _, there = check_readiness(job(f"train.nodes={needs}", "cluster.address=auto"), dashboard=url)
            assert by_check(there)["room"].verdict == verdict, needs
        growing = "cluster.may_grow_to=[{nodes: 2, cpus: 4, accelerator: H100}]"
        for nodes_of_growth, verdict in ((growing, "OK"), (growing.replace("H100", "L4"), "FAIL")):
            _, there = check_readiness(job("train.nodes={accelerator: H100}", nodes_of_growth), dashboard=url)
            assert by_check(there)["room"].verdict == verdict
            if verdict == "OK":
                assert "may grow to, for which training on 1 workers will wait" in by_check(there)["room"].found
    _, gone = check_readiness(job(), dashboard=url)
    assert list(by_check(gone)) == ["address"]
