"""What a run keeps on disk: checkpoints, networks, files whole or not there."""
