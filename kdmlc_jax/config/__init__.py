"""Configurations: one ConfigDict per run, from a file, arguments in its name, and overrides. Imports no JAX.

`configs/fashion_mnist.py:method=kdmlc,preset=strong,rate=0.8,quick` names a file and its arguments; each argument is
a short name of a field (`SHORT`), a flag of the file (`quick`), or an option of the method.
"""

from kdmlc_jax.config.arguments import SHORT, assign, call, find, parse_arguments, resolve
from kdmlc_jax.config.fields import base, flatten
from kdmlc_jax.config.loading import load
from kdmlc_jax.config.ranges import check
from kdmlc_jax.config.resume import changes, changes_of, differences, from_json, read
