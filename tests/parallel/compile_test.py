"""Compilation: backend options that change nothing but time, and where programs are kept."""

import jax
import jax.numpy as jnp
import numpy as np

from kdmlc_jax import parallel


def test_compiler_options_change_time_only():
    """Protects results from the backend's options: unknown ones are left out, known ones compute the same."""
    options = parallel.compiler_options()
    assert options == {} or jax.jit(lambda x: x + 1, compiler_options=options)(1) == 2

    def loss(kernel, images):
        dims = jax.lax.conv_dimension_numbers(images.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
        out = jax.lax.conv_general_dilated(images, kernel, (2, 2), "SAME", dimension_numbers=dims)
        return jnp.mean(jnp.tanh(out) ** 2)

    kernel = jax.random.normal(jax.random.key(0), (3, 3, 3, 8)) / 5
    images = jax.random.normal(jax.random.key(1), (16, 12, 12, 3))
    plain = jax.jit(jax.value_and_grad(loss))(kernel, images)
    ours = parallel.compile_step(jax.value_and_grad(loss))(kernel, images)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5), plain, ours)


def test_options_are_those_of_the_backend(monkeypatch):
    """Protects accelerators and other jaxlibs: CPU options are neither given to another backend nor insisted on."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert parallel.compiler_options.__wrapped__() == {}
    monkeypatch.undo()
    monkeypatch.setattr(parallel.compile, "CPU_OPTIONS", {"xla_no_such_option": "1"})
    assert parallel.compiler_options.__wrapped__() == {}


def test_what_runs_once_is_compiled_in_haste():
    """Protects the time until a run begins: this jaxlib knows the options that leave optimisation out, and the program
    is the same to rounding."""
    assert parallel.compiler_options(hasty=True) == parallel.compile.HASTY_OPTIONS

    def draw():
        return jax.random.normal(jax.random.key(0), (50, 3))

    np.testing.assert_allclose(parallel.compile_once(draw)(), jax.jit(draw)(), rtol=1e-5)


def test_compiled_programs_are_kept_where_the_user_says(tmp_path, monkeypatch):
    """Protects a folder the user chose for compiled programs, and the default place where none was chosen."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        for chosen, expected in ((str(tmp_path / "mine"), tmp_path / "mine"), (None, tmp_path / "kdmlc_jax")):
            jax.config.update("jax_compilation_cache_dir", chosen)
            parallel.keep_compiled()
            assert jax.config.jax_compilation_cache_dir == str(expected)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
