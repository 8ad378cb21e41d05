"""The parts of `lab.vllm`: the engine beside the trainer, and the ways in which it gets the weights."""
