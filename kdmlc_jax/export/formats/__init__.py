"""Files that other programs read a network from, a format a module, found by its name (`kdmlc_jax.registry`).

Each has `FILE`, the name of the file; `READER`, the module that `export/reader.py` reads it back with, and `EXTRA`,
ours that installs it; `NOTE`, what is to be known of it, or ''; and `encode(network) -> {name: bytes}`. `CLOSE`, where
there is one, is how far its answers may be from ours, else `checks.CLOSE`.
"""
