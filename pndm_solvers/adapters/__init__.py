"""One module or package for each ecosystem that can use the solvers. Importing this package imports none of them."""
