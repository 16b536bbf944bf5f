"""How the processes of one run find each other: flags, our variables, or a launcher that JAX knows."""

import os
from collections.abc import Mapping
from typing import NamedTuple

import jax

from kdmlc_jax.errors import UserError


class Launch(NamedTuple):
    """How this process finds the others; None = the launcher's environment says it."""

    coordinator: str | None = None  # host:port of process 0
    processes: int | None = None
    process: int | None = None


def find_launch(flags: Launch, environment: Mapping[str, str]) -> Launch | None:
    """What to give `jax.distributed.initialize`; None where this is the only process.

    Flags win. Else JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID (or JOB_COMPLETION_INDEX, which
    an indexed Kubernetes job sets); else an environment of more than one process that JAX reads by itself: SLURM,
    Open MPI (as JAX detects it), GKE's TPU pods.

    Raises:
      UserError: for flags or variables that do not belong together, or are out of range.
    """
    if any(value is not None for value in flags):
        return _checked(("--coordinator", "--processes", "--process"), flags)
    if environment.get("JAX_COORDINATOR_ADDRESS") and "JAX_NUM_PROCESSES" in environment:
        index = "JAX_PROCESS_ID" if "JAX_PROCESS_ID" in environment else "JOB_COMPLETION_INDEX"
        numbers = [_whole(name, environment.get(name)) for name in ("JAX_NUM_PROCESSES", index)]
        given = Launch(environment["JAX_COORDINATOR_ADDRESS"], *numbers)
        return _checked(("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", index), given)
    slurm, mpi = (_whole(name, environment.get(name, "1")) or 0 for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"))
    # An interactive SLURM shell knows its tasks but is none of them.
    stepped = "SLURM_PROCID" in environment and "SLURM_STEP_NODELIST" in environment
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return Launch() if (slurm > 1 and stepped) or mpi > 1 or len(hosts) > 1 else None


def _checked(names: tuple[str, str, str], given: Launch) -> Launch | None:
    """`given`, whole and in range; None where it is of one process."""
    for name, value in zip(names, given, strict=True):
        if value is None:
            raise UserError(f"{name} is missing: {', '.join(names)} belong together")
    address, processes, process = str(given.coordinator), given.processes or 0, given.process or 0
    if ":" not in address:
        raise UserError(f"{names[0]}: {address} is not host:port")
    if processes < 1:
        raise UserError(f"{names[1]}: {processes} is outside [1, ∞)")
    if not 0 <= process < processes:
        raise UserError(f"{names[2]}: {process} is outside [0, {processes - 1}]")
    return given if processes > 1 else None


def _whole(name: str, text: str | None) -> int | None:
    try:
        return None if text is None else int(text)
    except ValueError:
        raise UserError(f"{name}: {text} is not a whole number") from None


def join_processes(flags: Launch) -> None:
    """Connects this process with the others of its run, where there are any; before any device is touched.

    Raises:
      UserError: where flags or environment are wrong, or process 0 cannot be reached.
    """
    launch = find_launch(flags, os.environ)
    if launch is None or jax.distributed.is_initialized():
        return
    try:
        jax.distributed.initialize(*launch)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"processes: {launch.coordinator or 'the launcher'}: {str(error).splitlines()[0]}") from None
    if jax.default_backend() == "cpu":
        # Only process 0 finds its programs there, and one that was read may order its exchanges unlike one just made.
        jax.config.update("jax_enable_compilation_cache", False)
