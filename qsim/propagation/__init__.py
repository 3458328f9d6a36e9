"""Scale propagation: programs whose every tensor is a pair of data and scale."""
