"""What a loss is computed from: the outputs of the network, for Gauss-Newton and Fisher matrices."""
