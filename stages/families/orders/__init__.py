"""No head family is measured on orders: they say how far a step to the next word carries."""
