"""Data: sources, prepared splits, batches and augmentation, and the randomness they are a function of."""
