"""The parts of the house, each made from the settings: the composition root puts them together."""
