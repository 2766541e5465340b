"""No head family is measured on these words: they say how far what the heads run carries over."""
