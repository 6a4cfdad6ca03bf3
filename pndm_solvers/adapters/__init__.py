"""One file for each ecosystem in which the solvers are at home; importing this package imports none of them."""
