"""Devices and processes: the only room that says jit with shardings, pmap, Mesh.

A step is written once, in the view of one device. Under jit the arrays are global and the compiler splits the work by
the arrays' shardings; under pmap every device runs the step on its own copy of the state, and each network application
inside it (`in_slices`) takes the device's slice of the images and gathers the outputs, so that everything after the
network, random draws included, is the same on every device.
"""

from kdmlc_jax.parallel.compile import compile_once, compile_step, compiler_options, keep_compiled
from kdmlc_jax.parallel.launch import Launch, find_launch, join_processes
from kdmlc_jax.parallel.memory import Placed, show_table, table
from kdmlc_jax.parallel.mesh import (
    fetch,
    layout,
    make_mesh,
    own_rows,
    place,
    put_batch,
    put_flag,
    replicate,
    replicate_key,
    replicated,
    split_batch,
)
from kdmlc_jax.parallel.networks import gathering, in_slices, one_per_device, with_networks
from kdmlc_jax.parallel.processes import alone, assert_same, decide, from_main, in_any, is_main, on_main
