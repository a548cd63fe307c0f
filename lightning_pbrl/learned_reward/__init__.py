"""Learned rewards in other people's code: a function of arrays, wrappers of environments, and a folder to pass on."""
