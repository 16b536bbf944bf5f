"""From published files to batches: sources, noise, splits and augmentation."""
