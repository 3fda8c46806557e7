"""Attention over the rows of a micro-batch.

segments.py    says which tokens see each other, without a mask
interface.py   puts a kernel into a model
choice.py      chooses the fastest kernel that computes what the model's own attention does
flash.py, flex.py, paths.py   the kernels
"""
