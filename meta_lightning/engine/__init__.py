"""The parts of training and evaluation that all algorithms share."""
