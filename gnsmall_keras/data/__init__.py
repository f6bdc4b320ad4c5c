"""Images in memory: sources, split, augmentation, batches."""
