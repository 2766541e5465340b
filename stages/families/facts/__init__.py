"""No head family is measured on these subjects: stage `memory` reads and edits MLPs on them."""
