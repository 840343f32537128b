"""Real processes under every fault that can be made on one machine, round after round."""
