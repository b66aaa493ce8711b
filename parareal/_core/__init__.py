"""Small parts that every other package may use, and that use none of them: arrays, trees of tensors, norms, signals."""
