"""No head family is measured on these words: stage `compose` asks whether function vectors add up on them."""
