"""`python -m kdmlc_jax`: the same as the console command."""

from kdmlc_jax import kdmlc

if __name__ == "__main__":
    kdmlc.command()
