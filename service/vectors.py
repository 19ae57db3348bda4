"""Does arithmetic on matrices of vectors."""

from __future__ import annotations

import numpy as np


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scales rows to length 1: [n, dim] → [n, dim] float32. A row of zeros stays."""
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]  # a third of the time of np.linalg.norm
    return np.asarray(vectors / np.where(lengths == 0, 1, lengths), np.float32)
