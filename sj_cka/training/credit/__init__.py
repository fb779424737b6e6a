"""Credit assignment: learning rules of varying locality in space and time, and what can be proven of them."""
