"""Labels as files that other tools read, one tool a file: `write(rows, class_names, out)`; see `base` and `registry`.

Nothing here is needed to train or to apply corrections: `python -m kdmlc_jax.apply --to <tool>` writes them on demand.
"""
