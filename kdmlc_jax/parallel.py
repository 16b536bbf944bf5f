"""Devices and processes: the only file that says jit, pmap, Mesh and sharding.

A step is written once, in the view of one device. Under jit the arrays are global and the compiler splits the work by
the arrays' shardings; under pmap every device runs the step on its own copy of the state, and each network application
inside it (`spread`) takes the device's slice of the images and gathers the outputs, so that everything after the
network, random draws included, is the same on every device.
"""

import os
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kdmlc_jax.errors import UserError
from kdmlc_jax.train_state import Bank, NetState

# XLA's default CPU convolutions are 2-4x slower than these library calls; other backends do not know the option.
_CPU_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": ",".join(
        f"LIBRARY_FUSION_TYPE_{kind}" for kind in ("DOT", "REDUCE", "ELTWISE")
    )
}


def keep_compiled() -> None:
    """Keeps compiled programs on disk, so that the next run of the same config starts at once.

    The folder is $JAX_COMPILATION_CACHE_DIR where that is set, else `kdmlc_jax` in the user's cache folder.
    """
    if not getattr(jax.config, "jax_compilation_cache_dir", None):
        root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", os.path.join(root, "kdmlc_jax"))


# --- processes -------------------------------------------------------------------------------------------------------


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
        names, values = ["--coordinator", "--processes", "--process"], flags
    elif environment.get("JAX_COORDINATOR_ADDRESS") and "JAX_NUM_PROCESSES" in environment:
        index = "JAX_PROCESS_ID" if "JAX_PROCESS_ID" in environment else "JOB_COMPLETION_INDEX"
        names = ["JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", index]
        numbers = [_whole(name, environment.get(name)) for name in names[1:]]
        values = Launch(environment["JAX_COORDINATOR_ADDRESS"], *numbers)
    else:
        tasks = [int(_whole(name, environment.get(name, "1"))) for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")]
        # An interactive SLURM shell knows its tasks but is none of them.
        stepped = "SLURM_PROCID" in environment and "SLURM_STEP_NODELIST" in environment
        hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
        return Launch() if (tasks[0] > 1 and stepped) or tasks[1] > 1 or len(hosts) > 1 else None
    for name, value in zip(names, values, strict=True):
        if value is None:
            raise UserError(f"{name} is missing: {', '.join(names)} belong together")
    address, processes, process = str(values[0]), int(values[1] or 0), int(values[2] or 0)
    if ":" not in address:
        raise UserError(f"{names[0]}: {address} is not host:port")
    if processes < 1:
        raise UserError(f"{names[1]}: {processes} is outside [1, ∞)")
    if not 0 <= process < processes:
        raise UserError(f"{names[2]}: {process} is outside [0, {processes - 1}]")
    return values if processes > 1 else None


def _whole(name: str, text: str | None) -> Any:
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


def is_main() -> bool:
    """Whether this process is the one that writes files and speaks."""
    return jax.process_index() == 0


def alone() -> bool:
    """Whether this is the only process of its run."""
    return jax.process_count() == 1


def from_main(value: int) -> int:
    """Process 0's `value`, in every process; all of them wait for it."""
    if alone():
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def in_any(flag: bool) -> bool:
    """Whether `flag` is set in any process; all of them wait for it."""
    if alone():
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.array(flag)).any())


def on_main(action: Callable[[], Any]) -> None:
    """Calls `action` in process 0 while the others wait.

    Raises:
      UserError: in every process, where `action` does.
    """
    error = None
    if is_main():
        try:
            action()
        except UserError as caught:
            error = caught
    if from_main(int(error is not None)):
        raise error or UserError("process 0 ended; it says why")


def decide(fn: Callable[[], Any]) -> Any:
    """What `fn` gives in process 0, a pytree of host arrays and numbers, in every process; the others wait for it.

    Raises:
      UserError: in every process, where `fn` does.
    """
    if alone():
        return fn()
    from jax.experimental import multihost_utils

    made: list[Any] = []
    on_main(lambda: made.append(fn()))
    sent = np.frombuffer(pickle.dumps(made[0]) if made else b"", np.uint8)
    size = from_main(len(sent))
    sent = multihost_utils.broadcast_one_to_all(sent if is_main() else np.zeros(size, np.uint8))
    return pickle.loads(np.asarray(sent).tobytes())


def put_flag(flag: bool, mesh: Mesh) -> jax.Array:
    """Every process's `flag`, for a program that tells them all whether one is set: bool[slices of the data axis]."""
    return put_batch(np.full(mesh.shape["data"] // jax.process_count(), flag), mesh)


# --- placement -------------------------------------------------------------------------------------------------------


def make_mesh(devices: int = 0, model: int = 1) -> Mesh:
    """A mesh with the axes "data" and "model" over the first `devices` devices (0 means all), `model` of them a row.

    Raises:
      UserError: if there are fewer, or they do not divide.
    """
    have = jax.devices()
    if not 0 <= devices <= len(have):
        raise UserError(f"devices: {devices} is outside [0, {len(have)}], the number of {have[0].platform} devices")
    if not alone() and devices not in (0, len(have)):
        raise UserError(f"devices: {devices}: several processes use all of their {len(have)} devices together")
    chosen = np.array(have[: devices or len(have)])
    if model < 1 or len(chosen) % model or jax.local_device_count() % model:
        raise UserError(f"parallel.model: {model} does not divide the {len(chosen)} devices, or those of a process")
    return Mesh(chosen.reshape(-1, model), ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device has whole."""
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that is split along its first axis over the data axis."""
    return NamedSharding(mesh, PartitionSpec("data"))


def layout(tree: Any, mesh: Mesh, how: Any) -> Any:
    """The sharding of each array of a state, by rule.

    Replicated, but: with `how.sharding` "fsdp" an array of at least `how.shard_above` elements, parameter, optimiser
    state or average alike, is split along its largest dimension that the devices divide (the first of equals); with
    `how.split_banks` a `Bank` is split along its rows, over the data axis, where that divides them.

    Args:
      tree: arrays or their shapes.
      mesh: of the run.
      how: the config's fields `parallel`.

    Returns:
      A tree of NamedSharding.
    """

    def of(leaf: Any) -> Any:
        if isinstance(leaf, Bank):
            divides = how.split_banks and len(leaf.rows) % mesh.shape["data"] == 0
            return leaf.replace(rows=by_rows(mesh) if divides else replicated(mesh))
        if how.sharding == "fsdp" and mesh.size > 1 and leaf.size >= how.shard_above:
            sizes = [size if size % mesh.size == 0 else 0 for size in leaf.shape]
            if any(sizes):
                spec: list[Any] = [None] * len(sizes)
                spec[int(np.argmax(sizes))] = ("data", "model")
                return NamedSharding(mesh, PartitionSpec(*spec))
        return replicated(mesh)

    return jax.tree.map(of, tree, is_leaf=lambda node: isinstance(node, Bank))


def table(tree: Any, shardings: Any) -> list[tuple[str, str, str, str, int, int]]:
    """What lies where: (array, shape, type, split dimension or "", bytes, bytes on each device) per leaf."""
    rows = []
    for (path, leaf), sharding in zip(
        jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(shardings), strict=True
    ):
        size = leaf.dtype.itemsize
        split = [str(dim) for dim, axis in enumerate(sharding.spec) if axis is not None]
        own = int(np.prod(sharding.shard_shape(leaf.shape))) * size
        shape = "x".join(map(str, leaf.shape)) or "scalar"
        rows.append((jax.tree_util.keystr(path), shape, str(leaf.dtype), ",".join(split), leaf.size * size, own))
    return rows


def show_table(rows: list[tuple[str, str, str, str, int, int]]) -> str:
    """`table` summed over the parts of the state, as lines for a person."""
    parts: dict[str, list[int]] = {}
    for name, _, _, split, whole, own in rows:
        part = parts.setdefault(name.split("[")[0].strip(".") or "state", [0, 0, 0, 0])
        part[:] = [a + b for a, b in zip(part, (1, int(bool(split)), whole, own), strict=True)]
    parts["all"] = [sum(column) for column in zip(*parts.values(), strict=True)]
    lines = [f"{'state':34s}{'arrays':>8s}{'split':>7s}{'KiB':>12s}{'KiB a device':>14s}"]
    for name, (arrays, divided, whole, own) in parts.items():
        lines.append(f"{name:34s}{arrays:8d}{divided:7d}{whole / 1024:12.1f}{own / 1024:14.1f}")
    return "\n".join(lines)


def place(tree: Any, shardings: Any) -> Any:
    """`tree` on the devices, in buffers of its own; every process gives the same values."""

    def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.jit(jnp.copy, out_shardings=sharding)(leaf)
        if alone():
            # device_put shares the first device's buffer with its source, whatever may_alias says.
            return jax.device_put(leaf.copy() if isinstance(leaf, jax.Array) else leaf, sharding)
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree, shardings)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """`tree` whole on every device of the mesh, in buffers of its own."""
    return place(tree, jax.tree.map(lambda _: replicated(mesh), tree))


def replicate_key(make: Callable[[], jax.Array], mesh: Mesh) -> jax.Array:
    """The random key that `make` gives, whole on every device; no process sends it to another."""
    return jax.jit(make, out_shardings=replicated(mesh))()


def own_rows(count: int) -> slice:
    """Which rows of a batch of `count`, which the processes divide, this process reads."""
    each = count // jax.process_count()
    return slice(jax.process_index() * each, (jax.process_index() + 1) * each)


def put_batch(batch: Any, mesh: Mesh) -> Any:
    """Host arrays of one batch on the mesh, split along their first axis; each process gives its `own_rows`."""
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(by_rows(mesh), np.asarray(rows)), batch)


def split_batch(batch: Any, mesh: Mesh) -> Any:
    """Inside jit: each leaf of a batch split along its first axis, which divides by the data axis."""
    if mesh.size == 1:
        return batch
    return lax.with_sharding_constraint(batch, by_rows(mesh))


def fetch(tree: Any) -> Any:
    """Host copies of a tree's arrays; where several processes hold parts of them, all processes call this."""

    def get(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            sharding: Any = leaf.sharding
            leaf = jax.jit(jnp.copy, out_shardings=replicated(sharding.mesh))(leaf)
        return np.asarray(leaf)

    return jax.tree.map(get, tree)


# --- compilation -----------------------------------------------------------------------------------------------------


@cache
def compiler_options() -> dict[str, str]:
    """The backend's compile options; empty where this jaxlib does not know them."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x + 1, compiler_options=_CPU_OPTIONS)(0)
    except Exception:  # an unknown option is reported by whatever error the backend's parser raises
        return {}
    return dict(_CPU_OPTIONS)


def compile_step(step: Callable, donate: Sequence[int] = (), out: Any = None) -> Callable:
    """`step` under jit with the backend's options; arguments numbered in `donate` are consumed.

    `out`: shardings of what it returns, a tree or the top of one; None leaves them to the compiler.
    """
    return jax.jit(step, donate_argnums=tuple(donate), out_shardings=out, compiler_options=compiler_options())


def one_per_device(step: Callable, mesh: Mesh) -> Callable:
    """(state, *arguments) -> outputs of `step`, run by pmap on every device of the mesh with `spread` networks.

    All arguments and outputs are whole on every device. Compile it with `compile_step`.
    """
    each_step = with_networks(step, spread)

    def mapped(*arguments: Any) -> Any:
        each = jax.pmap(
            lambda _, *rest: each_step(*rest),
            axis_name="data",
            in_axes=(0, *[None] * len(arguments)),
            out_axes=(None, None),
            devices=list(mesh.devices.flat),
        )
        return each(np.arange(mesh.size), *arguments)

    return mapped


def with_networks(step: Callable, wrap: Callable[[Callable], Callable]) -> Callable:
    """`step` (carry, *arguments) -> (carry, outputs), in which every network's apply function is wrapped."""

    def is_net(node: Any) -> bool:
        return isinstance(node, NetState)

    def replaced(carry: Any, functions: Iterable[Callable]) -> Any:
        left = iter(functions)
        return jax.tree.map(
            lambda node: node.replace(apply_fn=next(left)) if is_net(node) else node, carry, is_leaf=is_net
        )

    def wrapped(carry: Any, *arguments: Any) -> Any:
        plain = [node.apply_fn for node in jax.tree.leaves(carry, is_leaf=is_net) if is_net(node)]
        new, out = step(replaced(carry, map(wrap, plain)), *arguments)
        return replaced(new, plain), out

    return wrapped


def gathering(apply_fn: Callable, mesh: Mesh) -> Callable:
    """Inside jit: a network's apply function that has its weights whole on every device, and their gradient, too.

    State and optimiser stay split. Left to itself the compiler splits the network's own work by the weights' layout
    and sends activations between the devices, which are larger.
    """

    def applied(variables: Any, images: jax.Array, **keywords: Any) -> Any:
        # The constraint is its own transpose: what is gathered on the way in is summed whole on the way back.
        return apply_fn(lax.with_sharding_constraint(variables, replicated(mesh)), images, **keywords)

    return applied


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def average_gradient(params: Any, axis: str) -> Any:
    """`params` itself; the gradient with respect to it is averaged over the devices of a pmap axis."""
    return params


average_gradient.defvjp(
    lambda params, axis: (params, None), lambda axis, _, gradient: (lax.pmean(gradient, axis_name=axis),)
)


def spread(apply_fn: Callable, axis: str = "data") -> Callable:
    """A network's apply function, computed in slices by the devices of a pmap axis.

    Each device applies the network to its slice of the rows and gathers all outputs; BatchNorm takes its statistics
    over all slices; the gradient with respect to the parameters is averaged over the devices where it arises, inside
    whatever is being differentiated, so that a look-ahead moves along the gradient of the whole batch. (A device's own
    gradient counts its slice once for each device that gathered it, so the mean is the whole batch's gradient.)
    Rows that the devices do not divide are computed whole on each.
    """

    def synchronised(call: Callable, arguments: Any, keywords: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__":
            object.__setattr__(context.module, "axis_name", axis)  # modules are frozen; this one is a bound copy
        return call(*arguments, **keywords)

    def applied(variables: Any, images: jax.Array, **keywords: Any) -> Any:
        devices = lax.axis_size(axis)
        if len(images) % devices:
            return apply_fn(variables, images, **keywords)
        rows = len(images) // devices
        mine = lax.dynamic_slice_in_dim(images, lax.axis_index(axis) * rows, rows)
        with nn.intercept_methods(synchronised):
            out = apply_fn({**variables, "params": average_gradient(variables["params"], axis)}, mine, **keywords)
        whole = partial(lax.all_gather, axis_name=axis, axis=0, tiled=True)
        if keywords.get("mutable"):
            return jax.tree.map(whole, out[0]), out[1]
        return jax.tree.map(whole, out)

    return applied
