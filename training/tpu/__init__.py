"""Does the step compile for a TPU, and how much of its memory does it need? Asked without a TPU.

`check` runs the two halves in processes of their own, since both load the TPU compiler (libtpu): `lower` turns the
step into XLA's HLO under tensorflow-tpu, `compile` compiles that for a topology under JAX. They live in an environment
of their own, made by `make tpu-check` from requirements.txt. What this cannot show: that a TPU can be reached, how
quick a step is, how a spot TPU is taken away.
"""
