"""Computation of updates on this machine: matrix products, precision, Adam's kernel, the compiler, CUDA graphs."""
