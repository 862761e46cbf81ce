"""Attacks on trained networks: PGD under l2 and l∞, and AutoAttack."""
