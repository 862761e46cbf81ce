"""Attacks on trained networks: PGD under l2 and l∞, the strict attack, and AutoAttack."""
