"""Checks, without a TPU, that a training step compiles for one, and how much of its memory it needs.

`check` runs the two halves in separate processes, since both load the TPU compiler (libtpu): `lower` turns the step
into XLA's HLO with tensorflow-tpu, `compile` compiles it for a topology with JAX. They run in their own environment,
which `make tpu-check` makes from requirements.txt. Not checked: that a TPU can be reached, the speed of a step, and the
preemption of a spot TPU.
"""
