"""`python -m kdmlc_jax`: the same as the console command."""

from kdmlc_jax.kdmlc import command

if __name__ == "__main__":
    command()
