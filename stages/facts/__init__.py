"""What `memory` does with facts, apart: where they are looked up, how they are inserted, what a miss looks like."""
