"""Made embedding spaces for the tests of policies: unit vectors, rotations, and recall@1 by the product's own search."""

import numpy as np

from cmcl_ray.index.backends.exact import Exact


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def rotation(rng, dim, strength):
    """Return the sign-fixed Q factor of I + strength N(0, I/dim)."""
    q, r = np.linalg.qr(np.eye(dim) + strength * rng.standard_normal((dim, dim)) / np.sqrt(dim))
    return q * np.sign(np.diag(r))


def known_recall(queries, gallery):
    """Return recall@1 in percent where query i is answered by row i."""
    hits = Exact(device="cpu").build(gallery, np.arange(len(gallery))).search(queries, 1)
    return 100 * float((hits.ids[:, 0] == np.arange(len(queries))).mean())
