"""How processes find each other: what each launcher sets, and one line for what does not fit together."""

import pytest

from kdmlc_jax import parallel
from kdmlc_jax.errors import UserError

LAUNCHES = [
    ({}, None),
    ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_NODELIST": "a"}, None),
    ({"SLURM_NTASKS": "4"}, None),
    ({"SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_STEP_NODELIST": "a,b"}, parallel.Launch()),
    ({"OMPI_COMM_WORLD_SIZE": "2"}, parallel.Launch()),
    ({"OMPI_COMM_WORLD_SIZE": "1"}, None),
    ({"TPU_WORKER_HOSTNAMES": "a"}, None),
    ({"TPU_WORKER_HOSTNAMES": "a,b"}, parallel.Launch()),
    (
        {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "3", "JOB_COMPLETION_INDEX": "2"},
        parallel.Launch("a:1", 3, 2),
    ),
    (
        {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "3", "JAX_PROCESS_ID": "1", "SLURM_NTASKS": "9"},
        parallel.Launch("a:1", 3, 1),
    ),
    ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}, None),
]


@pytest.mark.parametrize("environment, expected", LAUNCHES)
def test_launchers_are_recognised(environment, expected):
    """Protects a job script without our flags: what the launcher sets decides, and a lone process stays alone."""
    assert parallel.find_launch(parallel.Launch(), environment) == expected


@pytest.mark.parametrize(
    "flags, environment, words",
    [
        (("a:1", 2, None), {}, ["--process is missing", "belong together"]),
        ((None, 2, 0), {}, ["--coordinator is missing"]),
        (("a", 2, 0), {}, ["--coordinator: a", "host:port"]),
        (("a:1", 0, 0), {}, ["--processes: 0", "[1, "]),
        (("a:1", 2, 2), {}, ["--process: 2", "[0, 1]"]),
        ((None, None, None), {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2"}, ["JOB_COMPLETION_INDEX"]),
        ((None, None, None), {"SLURM_NTASKS": "many"}, ["SLURM_NTASKS: many"]),
    ],
)
def test_wrong_launches_are_refused(flags, environment, words):
    """Protects a typing error in a launch line: flag or variable, value and range are named."""
    with pytest.raises(UserError) as caught:
        parallel.find_launch(parallel.Launch(*flags), environment)
    assert all(word in str(caught.value) for word in words)
